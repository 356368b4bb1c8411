package hpack

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	xhpack "golang.org/x/net/http2/hpack"
)

func decodeAll(t testing.TB, d *Decoder, block []byte) []string {
	var scratch []byte
	out := []string{}
	d.Start(block, &scratch)
	for {
		var f Field
		ok, err := d.Next(&f)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return out
		}
		out = append(out, string(f.Name)+": "+string(f.Value))
	}
}

// RFC 7541 appendix C.3 to C.6: three requests, three responses.
func TestRFCExamples(t *testing.T) {
	unhex := func(s string) []byte {
		var b []byte
		fmt.Sscanf(strings.ReplaceAll(s, " ", ""), "%x", &b)
		return b
	}
	for _, blocks := range [][]string{
		{"828684410f7777772e6578616d706c652e636f6d", "828684be58086e6f2d6361636865", "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565"},
		{"828684418cf1e3c2e5f23a6ba0ab90f4ff", "828684be5886a8eb10649cbf", "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf"},
	} {
		var d Decoder
		want := []string{
			":method: GET|:scheme: http|:path: /|:authority: www.example.com",
			":method: GET|:scheme: http|:path: /|:authority: www.example.com|cache-control: no-cache",
			":method: GET|:scheme: https|:path: /index.html|:authority: www.example.com|custom-key: custom-value",
		}
		for i, b := range blocks {
			if got := strings.Join(decodeAll(t, &d, unhex(b)), "|"); got != want[i] {
				t.Errorf("block %d\n got %s\nwant %s", i, got, want[i])
			}
		}
		if d.t.size != 164 || d.t.len() != 3 {
			t.Errorf("table %d bytes, %d entries", d.t.size, d.t.len())
		}
	}
}

func TestHuffmanAgainstXNet(t *testing.T) {
	for c := range 256 {
		s := strings.Repeat(string([]byte{byte(c)}), 3)
		got, ok := appendHuffman(nil, xhpack.AppendHuffmanString(nil, s))
		if !ok || string(got) != s {
			t.Errorf("%d: %q %v", c, got, ok)
		}
	}
	for _, bad := range []string{"\xff\xff\xff\xff", "\xff", "\x1f\xff", "\x00"} {
		_, err := xhpack.HuffmanDecodeToString([]byte(bad))
		if _, ok := appendHuffman(nil, []byte(bad)); ok != (err == nil) {
			t.Errorf("%x: ours %v, x/net %v", bad, ok, err)
		}
	}
	// Texts of common and of rare bytes, whole, cut and damaged.
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		text := make([]byte, r.IntN(40))
		for i := range text {
			if text[i] = byte(' ' + r.IntN(95)); r.IntN(8) == 0 {
				text[i] = byte(r.IntN(256))
			}
		}
		b := xhpack.AppendHuffmanString(nil, string(text))
		switch n := len(b); {
		case n > 0 && r.IntN(3) == 0:
			b = b[:r.IntN(n)]
		case n > 0 && r.IntN(3) == 0:
			b[r.IntN(n)] ^= 1 << r.IntN(8)
		case r.IntN(20) == 0:
			b = append(b, 0xff)
		}
		want, err := xhpack.HuffmanDecodeToString(b)
		got, ok := appendHuffman([]byte("x"), b)
		if ok != (err == nil) || ok && string(got) != "x"+want {
			t.Fatalf("%x: ours %q %v, x/net %q %v", b, got, ok, want, err)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	for name, b := range map[string]string{
		"index 0":                "\x80",
		"index beyond":           "\xbe",
		"integer without end":    "\xff\x80\x80\x80\x80\x80\x00",
		"integer cut":            "\xff",
		"string cut":             "\x40\x05ab",
		"string missing":         "\x40",
		"huffman eos":            "\x00\x84\xff\xff\xff\xff\x00",
		"huffman padding":        "\x00\x81\x00\x00",
		"resize too large":       "\x3f\xe2\x1f",
		"resize after a field":   "\x82\x20",
		"literal with bad index": "\x7f\x00\x00",
	} {
		var d Decoder
		var scratch []byte
		d.Start([]byte(b), &scratch)
		var err error
		for ok := true; ok && err == nil; {
			ok, err = d.Next(new(Field))
		}
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSensitive(t *testing.T) {
	var d Decoder
	var e Encoder
	var scratch []byte
	o := e.Start(nil)
	for range 3 {
		o = e.Append(o, []byte("authorization"), []byte("Bearer x"))
		o = e.Append(o, []byte("x-my-key"), []byte("y"))
		o = e.Append(o, []byte("accept"), []byte("text/plain"))
	}
	d.Start(o, &scratch)
	for {
		var f Field
		ok, err := d.Next(&f)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		if f.Sensitive != (string(f.Name) != "accept") {
			t.Errorf("%s: sensitive %v", f.Name, f.Sensitive)
		}
	}
	if e.t.len() != 1 {
		t.Errorf("%d entries in the table", e.t.len())
	}
}

// What x/net's encoder writes, in any mixture of forms, we read; what ours
// writes, x/net reads. Tables of both sides live on over many blocks.
func TestDifferential(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	names := []string{":path", "accept", "x-custom", "cookie", "user-agent", "grpc-timeout", "x-forwarded-client-cert", "x", "authorization"}
	var (
		theirs bytes.Buffer
		xe     = xhpack.NewEncoder(&theirs)
		ours   Encoder
		d      Decoder
		got    []string
		xd     = xhpack.NewDecoder(MaxTable, func(f xhpack.HeaderField) { got = append(got, f.Name+": "+f.Value) })
	)
	for i := range 5000 {
		want := []string{}
		theirs.Reset()
		if i%97 == 96 {
			n := uint32(5000 - i + r.IntN(500))
			xe.SetMaxDynamicTableSize(min(n, MaxTable))
			ours.SetMax(n)
			if r.IntN(2) == 0 {
				ours.SetMax(4096)
			}
		}
		o := ours.Start(nil)
		for range r.IntN(12) {
			f := xhpack.HeaderField{Name: names[r.IntN(len(names))], Sensitive: r.IntN(9) == 0}
			switch r.IntN(4) {
			case 0:
				f.Value = fmt.Sprint("v", r.IntN(1000000))
			case 1:
				f.Value = strings.Repeat("long", r.IntN(600))
			default:
				f.Value = fmt.Sprint("same", r.IntN(6))
			}
			want = append(want, f.Name+": "+f.Value)
			xe.WriteField(f)
			o = ours.Append(o, []byte(f.Name), []byte(f.Value))
		}
		if g := decodeAll(t, &d, theirs.Bytes()); strings.Join(g, "|") != strings.Join(want, "|") {
			t.Fatalf("block %d: decoded\n%q\nwant\n%q", i, g, want)
		}
		got = nil
		if _, err := xd.Write(o); err != nil {
			t.Fatalf("block %d: x/net refuses ours: %v", i, err)
		}
		if err := xd.Close(); err != nil {
			t.Fatal(err)
		}
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Fatalf("block %d: x/net reads\n%q\nwant\n%q", i, got, want)
		}
	}
	if ours.t.size > MaxTable || cap(ours.t.buf) > 4*MaxTable || cap(d.t.buf) > 4*MaxTable {
		t.Errorf("tables of %d bytes in %d and %d", ours.t.size, cap(ours.t.buf), cap(d.t.buf))
	}
}

func TestStatus(t *testing.T) {
	for s := 100; s < 1000; s += 1 {
		var e Encoder
		var d Decoder
		if got := decodeAll(t, &d, e.Status(e.Start(nil), s)); got[0] != fmt.Sprint(":status: ", s) {
			t.Errorf("%d: %s", s, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"))
	f.Add([]byte("\x3f\xe1\x1f\x40\x01a\x01b\xbe\x7e\x02cd"))
	f.Add([]byte("\x20\x10\x01a\x01b"))
	f.Fuzz(func(t *testing.T, block []byte) {
		var want, got []string
		xd := xhpack.NewDecoder(MaxTable, func(f xhpack.HeaderField) {
			want = append(want, fmt.Sprintf("%q %q %v", f.Name, f.Value, f.Sensitive))
		})
		_, err := xd.Write(block)
		if err == nil {
			err = xd.Close()
		}
		var d Decoder
		var scratch []byte
		d.Start(block, &scratch)
		for {
			var f Field
			ok, err2 := d.Next(&f)
			if err2 != nil {
				// x/net overlooks misplaced size updates of an empty table.
				if err == nil && err2 != errResize {
					t.Fatalf("refused: %v; x/net reads %q", err2, want)
				}
				return
			}
			if !ok {
				break
			}
			got = append(got, fmt.Sprintf("%q %q %v", f.Name, f.Value, f.Sensitive))
		}
		if err != nil {
			t.Fatalf("accepted %q; x/net: %v", got, err)
		}
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Fatalf("got %q want %q", got, want)
		}
	})
}

func requestFields() []Field {
	var f []Field
	for _, s := range []string{":method GET", ":scheme http", ":authority orders.shop.svc.cluster.local", ":path /api/v1/items?id=42", "user-agent curl/8.5.0", "accept */*", "accept-encoding gzip", "x-request-id 5a0a8d7e-6b1f-4d0b-9b7d-1d2c3b4a5f6e", "x-forwarded-proto http"} {
		n, v, _ := strings.Cut(s, " ")
		f = append(f, Field{Name: []byte(n), Value: []byte(v)})
	}
	return f
}

func BenchmarkEncode(b *testing.B) {
	var e Encoder
	fields := requestFields()
	var o []byte
	b.ReportAllocs()
	for b.Loop() {
		o = e.Start(o[:0])
		for i := range fields {
			o = e.Append(o, fields[i].Name, fields[i].Value)
		}
	}
	b.ReportMetric(float64(len(o)), "wire-bytes")
}

func benchDecode(b *testing.B, block func() []byte) {
	var d Decoder
	var scratch []byte
	var f Field
	b.ReportAllocs()
	for b.Loop() {
		d.Start(block(), &scratch)
		for {
			ok, err := d.Next(&f)
			if err != nil {
				b.Fatal(err)
			}
			if !ok {
				break
			}
		}
	}
}

func BenchmarkDecodeLiterals(b *testing.B) {
	var e Encoder
	o := e.Start(nil)
	for _, f := range requestFields() {
		o = e.Append(o, f.Name, f.Value)
	}
	benchDecode(b, func() []byte { return o })
}

func BenchmarkDecodeHuffman(b *testing.B) {
	var o []byte
	for _, f := range requestFields() {
		o = append(o, 0, byte(len(f.Name)))
		o = append(o, f.Name...)
		h := xhpack.AppendHuffmanString(nil, string(f.Value))
		o = append(appendInt(o, 0x80, 7, len(h)), h...)
	}
	benchDecode(b, func() []byte { return o })
}

// Every block adds to the table and evicts.
func BenchmarkDecodeAdding(b *testing.B) {
	blocks := make([][]byte, 64)
	for i := range blocks {
		v := []byte(fmt.Sprintf("%0100d", i))
		blocks[i] = appendLiteral(nil, 0x40, 6, 0, []byte("x-some-name"), v)
	}
	i := 0
	benchDecode(b, func() []byte { i++; return blocks[i&63] })
}

// What was checked is known again as that entry alone: neither another value of
// its name is, nor an entry that took its place.
func TestChecked(t *testing.T) {
	var d Decoder
	var scratch []byte
	read := func(block []byte, check bool) (out string) {
		d.Start(block, &scratch)
		for {
			var f Field
			ok, err := d.Next(&f)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				return out
			}
			out += fmt.Sprintf("%s %v;", f.Value, f.Checked)
			if check {
				d.Check()
			}
		}
	}
	name := []byte("x-name")
	for i, step := range []struct {
		block []byte
		check bool
		want  string
	}{
		{appendLiteral(nil, 0x40, 6, 0, name, []byte("a")), false, "a false;"},
		{[]byte{0x80 | 62}, true, "a false;"},
		{[]byte{0x80 | 62, 0x82}, false, "a true;GET false;"},
		{appendLiteral(nil, 0x40, 6, 62, nil, []byte("b")), false, "b false;"},
		{[]byte{0x80 | 62, 0x80 | 63}, false, "b false;a true;"},
		{appendLiteral(nil, 0, 4, 63, nil, []byte("c")), true, "c false;"}, // in no table: nothing to remember
		{[]byte{0x80 | 62, 0x80 | 63}, false, "b false;a true;"},
		{append([]byte{0x20, 0x3f, 0xe1, 0x1f}, appendLiteral(nil, 0x40, 6, 0, name, []byte("d"))...), false, "d false;"},
		{[]byte{0x80 | 62}, false, "d false;"},
	} {
		if got := read(step.block, step.check); got != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
}
