package feed

import (
	"testing"
	"testing/synctest"

	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// pushNames sends a name table with one name; nil removes it.
func (s *fakeStream) pushNames(nonce, host string, removed []string) *discoverypb.DeltaDiscoveryRequest {
	s.t.Helper()
	r := &discoverypb.DeltaDiscoveryResponse{TypeUrl: conf.NDSType, Nonce: nonce, RemovedResources: removed}
	if host != "" {
		entry := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), host)
		body := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), entry)
		r.Resources = []*discoverypb.Resource{{Name: "names", Version: nonce, Resource: &anypb.Any{TypeUrl: conf.NDSType, Value: body}}}
	}
	b, err := proto.Marshal(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.out <- b
	for _, r := range s.requests() {
		if r.ResponseNonce == nonce {
			return r
		}
	}
	s.t.Fatal("no answer")
	return nil
}

// The names of the mesh are asked for by those who use them, replaced, kept
// when they are bad, and dropped.
func TestNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, newPlane(t), func(c *Config) { c.Names = true })
		defer w.stop()
		s := w.stream(t)
		first := s.requests()
		if len(first) != 3 || first[2].TypeUrl != conf.NDSType || len(first[2].ResourceNamesSubscribe) != 0 {
			t.Fatalf("first requests: %v", first)
		}
		settle(t, s)
		have := func() string {
			snap, _ := w.last()
			if snap.Names == nil {
				return "none"
			}
			for host := range snap.Names.Hosts {
				return host
			}
			return "empty"
		}
		if got := have(); got != "none" {
			t.Error(got)
		}
		for _, host := range []string{"a.shop", "b.shop"} {
			if r := s.pushNames(host, host, nil); r.ErrorDetail != nil || have() != host {
				t.Errorf("%s: %v, have %s", host, r.ErrorDetail, have())
			}
		}
		if r := s.pushNames("bad", string(make([]byte, 300)), nil); r.ErrorDetail == nil || have() != "b.shop" {
			t.Errorf("bad: %v, have %s", r.ErrorDetail, have())
		}
		if s.pushNames("gone", "", []string{"names"}); have() != "none" {
			t.Errorf("after the end: %s", have())
		}
	})
}

// FuzzResponses: whatever a control plane sends is read or refused, and what
// is read lies within the message.
func FuzzResponses(f *testing.F) {
	any := putBytes(putString(nil, 1, "type.googleapis.com/x"), 2, []byte("body"))
	f.Add(putString(putBytes(putString(nil, 1, "v1"), 2, any), 4, "x"))
	f.Add(putString(putBytes(nil, 2, putBytes(putString(putString(nil, 3, "name"), 1, "1"), 2, any)), 6, "gone"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) (*response, error){parseDelta, parseSotw} {
			r, err := parse(b)
			if err != nil {
				continue
			}
			n := 0
			for _, x := range r.resources {
				n += len(x.body)
			}
			if n > len(b) {
				t.Fatalf("%d bytes of bodies in %d", n, len(b))
			}
		}
	})
}
