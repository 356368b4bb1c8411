package main

import (
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

func TestStrip(t *testing.T) {
	profile := func(strings ...string) []byte {
		b := protowire.AppendVarint(protowire.AppendTag(nil, 12, protowire.VarintType), 10000000) // period
		for _, s := range strings {
			b = protowire.AppendString(protowire.AppendTag(b, stringTable, protowire.BytesType), s)
		}
		return b
	}
	got, err := strip(profile("", "cpu", "/home/me/tulle/internal/x.go", "github.com/a/b.F", "/x"))
	if want := profile("", "cpu", "x.go", "github.com/a/b.F", "x"); err != nil || string(got) != string(want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	if got, err := strip([]byte{0x32, 5, 'a'}); err == nil {
		t.Errorf("half a field became %q", got)
	}
}
