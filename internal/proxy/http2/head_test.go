package http2

import (
	"bytes"
	"fmt"
	"testing"

	xhpack "golang.org/x/net/http2/hpack"
)

// A list that comes a second time out of the compression table is taken as the
// first was, fields that mean something included.
func TestListFromTable(t *testing.T) {
	c := &conn{set: new(Set), lim: Limits{}.filled()}
	var out bytes.Buffer
	enc := xhpack.NewEncoder(&out)
	read := func(fields ...string) string {
		out.Reset()
		for i := 0; i < len(fields); i += 2 {
			enc.WriteField(xhpack.HeaderField{Name: fields[i], Value: fields[i+1]})
		}
		l := fieldList{h: c.set.head()}
		if err := c.decode(&l, out.Bytes()); err != nil {
			t.Fatal(err)
		}
		if l.bad != nil {
			return l.bad.text
		}
		return fmt.Sprintf("%d %s %s", l.h.Length, l.host, l.h.Fields)
	}
	list := []string{"x-a", "1", "cookie", "a=1", "cookie", "b=2", "content-length", "7", "host", "h", "te", "trailers", "x-envoy-upstream-service-time", "3"}
	want := "7 h [{x-a 1} {cookie a=1; b=2} {content-length 7} {te trailers} {x-envoy-upstream-service-time 3}]"
	for i := range 3 {
		if got := read(list...); got != want {
			t.Errorf("time %d:\n got %s\nwant %s", i, got, want)
		}
	}
	if got := read("x-a", "1", ":path", "/"); got != badPseudo.text {
		t.Errorf("a pseudo-header behind a field of the table: %s", got)
	}
	for range 2 {
		if got := read("x-a", "\x01"); got != badValue.text {
			t.Errorf("a bad value of a known name: %s", got)
		}
	}
}
