package format

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []Part
	}{
		{"plain", []Part{{Text: "plain"}}},
		{"100%%", []Part{{Text: "100%"}}},
		{"%PROTOCOL%", []Part{{Cmd: Protocol}}},
		{`[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH):9%"`, []Part{
			{Text: "["}, {Cmd: StartTime}, {Text: `] "`}, {Cmd: Req, Text: ":method"}, {Text: " "},
			{Cmd: Req, Text: "x-envoy-original-path", Alt: ":path", Max: 9}, {Text: `"`},
		}},
		{"%START_TIME(%s.%3f)%", nil},
		{"%START_TIME(%Y-%m-%d)%x", []Part{{Cmd: StartTime, Text: "%Y-%m-%d"}, {Text: "x"}}},
		{"%DURATION:5%", []Part{{Cmd: Duration, Max: 5}}},
	} {
		got, err := Parse(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if c.want == nil {
			continue
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", c.in, d)
		}
	}
	for _, bad := range []string{"%", "%PROTOCOL", "%NOPE%", "%REQ()%", "%REQ%", "%REQ(x", "%REQ(x)", "%REQ(x):0%", "%REQ(x):a%", "%PROTOCOL(x)%", "a%b%c"} {
		if p, err := Parse(bad); err == nil {
			t.Errorf("%s: no error, %v", bad, p)
		}
	}
}

func TestEveryCommandHasAName(t *testing.T) {
	seen := map[Command]bool{}
	for _, c := range names {
		seen[c] = true
	}
	for c := Req; c < commands; c++ {
		if !seen[c] {
			t.Errorf("command %d has no name", c)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("%REQ(a?b):3% %%%PROTOCOL%")
	f.Add("%)00(00000000") // a parenthesis that closes before one opens
	f.Fuzz(func(t *testing.T, s string) { _, _ = Parse(s) })
}
