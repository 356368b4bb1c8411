package listen

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

// record reads the ClientHello that crypto/tls sends for a configuration.
func record(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	go tls.Client(a, cfg).Handshake()
	head := make([]byte, 5)
	if _, err := io.ReadFull(b, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(b, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

// cut splits a record into records of n bytes.
func cut(rec []byte, n int) []byte {
	var out []byte
	for body := rec[5:]; len(body) > 0; {
		k := min(n, len(body))
		out = append(out, rec[0], rec[1], rec[2], byte(k>>8), byte(k))
		out = append(out, body[:k]...)
		body = body[k:]
	}
	return out
}

func TestHostIn(t *testing.T) {
	for in, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: a.shop:80\r\n\r\n":                 "a.shop:80",
		"\r\nPOST /x HTTP/1.0\nx: y\nhOST:\ta.shop \nz":             "a.shop",
		"GET / HTTP/1.1\r\nx: y\r\nhost: a.shop":                    "",
		"GET / HTTP/1.1\r\n\r\nHost: body\r\n\r\n":                  "",
		"GET / HTTP/1.1\r\nhost\r\n\r\n":                            "",
		"GET / HTTP/1.1":                                            "",
		"nonsense\r\nhost: a\r\n\r\n":                               "",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nhost: a.shop\r\n":          "",
		"GET http://b.shop/ HTTP/1.1\r\nx-host: c\r\nhost: a\r\n\r": "a",
		"": "",
	} {
		if got := string(hostIn([]byte(in))); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestParseHello(t *testing.T) {
	cfg := &tls.Config{ServerName: "Orders.Shop.example", NextProtos: []string{"istio", "h2"}, InsecureSkipVerify: true}
	rec := record(t, cfg)
	for _, in := range [][]byte{rec, cut(rec, 1), cut(rec, 100), append(slices.Clone(rec), "more bytes"...)} {
		h, v := parseHello(in)
		if v != yes || h.sni != "orders.shop.example" || !slices.Equal(h.alpn, cfg.NextProtos) {
			t.Fatalf("%v %+v", v, h)
		}
	}
	for i := range len(rec) {
		if _, v := parseHello(rec[:i]); v != more {
			t.Fatalf("the first %d bytes: %v", i, v)
		}
	}
	if h, v := parseHello(record(t, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})); v != yes || h.sni != "" || h.alpn != nil {
		t.Errorf("without names: %v %+v", v, h)
	}
	for _, s := range []string{"G", "\x16\x02", "\x15\x03\x01\x00\x02", "\x16\x03\x01\x00\x00", "\x16\x03\x01\xff\xff",
		"\x16\x03\x01\x00\x04\x02", "\x16\x03\x01\x00\x04\x01\xff\xff\xff", "\x16\x03\x01\x00\x04\x01\x00\x00\x00",
		"SSH-2.0-x\r\n", "\x80\x2e\x01\x03\x01"} {
		if _, v := parseHello([]byte(s)); v != no {
			t.Errorf("%q: %v", s, v)
		}
	}
	bad := bytes.Replace(rec, []byte("Orders.Shop"), []byte("Orders\x00Shop"), 1)
	if _, v := parseHello(bad); v != no {
		t.Errorf("a name with a zero byte: %v", v)
	}
}

func TestParseHTTP(t *testing.T) {
	for in, want := range map[string]string{
		"GET / HTTP/1.1\r\n":                    "http/1.1",
		"GET / HTTP/1.1\nHost: x":               "http/1.1",
		"\r\nPOST /a?b=c HTTP/1.0\r\nA: b\r\n":  "http/1.0",
		"PROPFIND /ü HTTP/1.1\r\n":              "http/1.1",
		preface:                                 "h2c",
		preface + "\x00\x00\x00\x04":            "h2c",
		"":                                      "more",
		"\r\n":                                  "more",
		"P":                                     "more",
		"PR":                                    "more",
		"PRI * HTTP/2.0\r\n\r\nSM":              "more",
		"DELETE":                                "more",
		"DELETE /x":                             "more",
		"DELETE /x HTTP/1.1\r":                  "more",
		"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n":      "no",
		"GET /\r\n":                             "no",
		"GET  HTTP/1.1\r\n":                     "no",
		"GET key\r\n":                           "no",
		"GET / HTTP/3.0\r\n":                    "no",
		"GET /a b HTTP/1.1\r\n":                 "no",
		"GET /\x00":                             "no",
		"get / HTTP/1.1\r\n":                    "no",
		"GETX":                                  "no",
		"\x00":                                  "no",
		"*1\r\n$4\r\nPING\r\n":                  "no",
		"GET " + strings.Repeat("a", maxLine+1): "no",
	} {
		p, v := parseHTTP([]byte(in))
		got := map[verdict]string{yes: p, no: "no", more: "more"}[v]
		if got != want {
			t.Errorf("%.40q: %s, want %s", in, got, want)
		}
	}
}

// What is decided on a part must hold for the whole, and nothing may be read
// out of bounds.
func FuzzParse(f *testing.F) {
	rec := record(f, &tls.Config{ServerName: "a.example", NextProtos: []string{"h2"}, InsecureSkipVerify: true})
	f.Add(rec, 3)
	f.Add(cut(rec, 50), 70)
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), 5)
	f.Add([]byte(preface), 3)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n < 0 || n > len(b) {
			return
		}
		h1, v1 := parseHello(b[:n:n])
		h2, v2 := parseHello(b)
		if v1 != more && (v1 != v2 || h1.sni != h2.sni || !slices.Equal(h1.alpn, h2.alpn)) {
			t.Errorf("hello: %v %v, then %v %v", v1, h1, v2, h2)
		}
		p1, w1 := parseHTTP(b[:n:n])
		p2, w2 := parseHTTP(b)
		if w1 != more && (w1 != w2 || p1 != p2) {
			t.Errorf("http: %v %v, then %v %v", w1, p1, w2, p2)
		}
	})
}
