package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// What a sidecar links every pod pays for: neither gRPC nor Envoy's protos,
// and of protobuf the wire format alone.
func TestLinksLittle(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	const wire = "google.golang.org/protobuf/encoding/protowire"
	if !slices.Contains(deps, wire) {
		t.Errorf("%d dependencies without %s: is this the list?", len(deps), wire)
	}
	for _, d := range deps {
		for _, no := range []string{"google.golang.org/grpc", "github.com/envoyproxy/", "github.com/cncf/", "google.golang.org/genproto",
			"k8s.io/", "net/http", "text/template", "google.golang.org/protobuf/proto", "google.golang.org/protobuf/reflect/"} {
			if d == no || strings.HasPrefix(d, strings.TrimSuffix(no, "/")+"/") || strings.HasSuffix(no, "/") && strings.HasPrefix(d, no) {
				t.Errorf("links %s", d)
			}
		}
	}
}
