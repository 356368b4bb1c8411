package main

import (
	"strings"
	"testing"
)

// A table that does not name everything, or names what does not exist, is not
// accepted.
func TestTableIsComplete(t *testing.T) {
	const head = "root envoy.config.core.v3.Pipe\nmessage envoy.config.core.v3.Pipe\n"
	for _, c := range []struct{ name, text, want string }{
		{"field missing", head + "act path\n", "envoy.config.core.v3.Pipe.mode is not mentioned"},
		{"no such field", head + "act path mode other\n", "has no field other"},
		{"twice", head + "act path mode\nrefuse path\n", "path: mentioned twice"},
		{"no reason", head + "act path\nharmless mode: x\n", "harmless needs a reason"},
		{"no such message", "message envoy.X\n", "envoy.X: not in the linked descriptors"},
		{"unreachable", head + "act path mode\nmessage envoy.config.core.v3.Locality\nact region zone sub_zone\n", "envoy.config.core.v3.Locality is out of reach"},
		{"message missing", "root envoy.config.core.v3.CidrRange\nroot envoy.config.core.v3.Pipe\nmessage envoy.config.core.v3.Pipe\nrefuse path mode\n", "envoy.config.core.v3.CidrRange is within reach but has no entry"},
		{"extension without a set", "root envoy.config.core.v3.TypedExtensionConfig\nmessage envoy.config.core.v3.TypedExtensionConfig\nact name typed_config\n", "an extension set belongs to a field of type Any"},
		{"word", "accept x\n", `unknown word "accept"`},
	} {
		tab, err := parseTable(c.text)
		if err == nil {
			_, err = tab.check()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

// Filling adds what is missing as refused, and nothing else.
func TestFill(t *testing.T) {
	const text = "root envoy.config.core.v3.Address\nmessage envoy.config.core.v3.Address\nact pipe\n"
	tab, err := parseTable(text)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tab.fill(text)
	if err != nil {
		t.Fatal(err)
	}
	want := text + "refuse socket_address envoy_internal_address\n\nmessage envoy.config.core.v3.Pipe\nrefuse path mode\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	tab, err = parseTable(got)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tab.check(); err != nil {
		t.Error(err)
	}
	if again, _ := tab.fill(got); again != got {
		t.Errorf("filled twice:\n%s", again)
	}
}
