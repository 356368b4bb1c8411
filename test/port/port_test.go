package port

import (
	"net"
	"testing"
)

// TestFree: nobody gets a port twice as long as its test runs, though nobody
// listens there.
func TestFree(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		at := Free(t).String()
		if seen[at] {
			t.Fatalf("%s twice", at)
		}
		seen[at] = true
	}
	for at := range seen {
		l, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
	}
}
