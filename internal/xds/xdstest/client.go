// Package xdstest is an ADS client for tests: it says what it is told to say
// and keeps what it is given.
//
// In: a gRPC connection. Out: the resources of each response.
// What does not belong here: understanding resources, or answering by itself.
package xdstest

import (
	"context"
	"fmt"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcpb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
)

// Response of either protocol.
type Response struct {
	Type      string
	Nonce     string
	Version   string
	Resources map[string][]byte // body by name on delta streams; by position ("0", "1", ...) else
	Removed   []string
	Aliases   map[string][]string // of resources, by name; delta streams only
	Versions  map[string]string   // of resources, by name; delta streams only
}

// Stream is one ADS stream. Not safe for concurrent use.
type Stream struct {
	node  *corepb.Node
	sotw  grpc.BidiStreamingClient[discoverypb.DiscoveryRequest, discoverypb.DiscoveryResponse]
	delta grpc.BidiStreamingClient[discoverypb.DeltaDiscoveryRequest, discoverypb.DeltaDiscoveryResponse]
}

// Sotw opens a state-of-the-world stream. node goes with the first request.
func Sotw(ctx context.Context, c grpc.ClientConnInterface, node *corepb.Node) (*Stream, error) {
	g, err := discoverypb.NewAggregatedDiscoveryServiceClient(c).StreamAggregatedResources(ctx)
	return &Stream{node: node, sotw: g}, err
}

// Delta opens a delta stream. node goes with the first request.
func Delta(ctx context.Context, c grpc.ClientConnInterface, node *corepb.Node) (*Stream, error) {
	g, err := discoverypb.NewAggregatedDiscoveryServiceClient(c).DeltaAggregatedResources(ctx)
	return &Stream{node: node, delta: g}, err
}

// Subscribe asks for names of a type; none means all. On a state-of-the-world
// stream names are the whole subscription.
func (s *Stream) Subscribe(typeURL, nonce string, names ...string) error {
	node := s.node
	s.node = nil
	if s.delta != nil {
		return s.delta.Send(&discoverypb.DeltaDiscoveryRequest{Node: node, TypeUrl: typeURL, ResponseNonce: nonce, ResourceNamesSubscribe: names})
	}
	return s.sotw.Send(&discoverypb.DiscoveryRequest{Node: node, TypeUrl: typeURL, ResponseNonce: nonce, ResourceNames: names})
}

// Come is Subscribe of a client that comes back and holds known, versions by
// name. Delta streams only.
func (s *Stream) Come(typeURL string, known map[string]string, names ...string) error {
	node := s.node
	s.node = nil
	return s.delta.Send(&discoverypb.DeltaDiscoveryRequest{Node: node, TypeUrl: typeURL, InitialResourceVersions: known, ResourceNamesSubscribe: names})
}

// Leave asks for names no more. Delta streams only.
func (s *Stream) Leave(typeURL string, names ...string) error {
	return s.delta.Send(&discoverypb.DeltaDiscoveryRequest{TypeUrl: typeURL, ResourceNamesUnsubscribe: names})
}

// Answer accepts r when reason is empty, else refuses it. names repeats the
// subscription of a state-of-the-world stream.
func (s *Stream) Answer(r *Response, reason string, names ...string) error {
	var e *rpcpb.Status
	if reason != "" {
		e = &rpcpb.Status{Code: 3, Message: reason}
	}
	if s.delta != nil {
		return s.delta.Send(&discoverypb.DeltaDiscoveryRequest{TypeUrl: r.Type, ResponseNonce: r.Nonce, ErrorDetail: e})
	}
	return s.sotw.Send(&discoverypb.DiscoveryRequest{TypeUrl: r.Type, ResponseNonce: r.Nonce, VersionInfo: r.Version, ErrorDetail: e, ResourceNames: names})
}

// Next waits for a response.
func (s *Stream) Next() (*Response, error) {
	out := &Response{Resources: map[string][]byte{}, Aliases: map[string][]string{}, Versions: map[string]string{}}
	if s.delta != nil {
		m, err := s.delta.Recv()
		if err != nil {
			return nil, err
		}
		out.Type, out.Nonce, out.Version, out.Removed = m.TypeUrl, m.Nonce, m.SystemVersionInfo, m.RemovedResources
		for _, r := range m.Resources {
			out.Resources[r.Name] = r.Resource.GetValue()
			out.Versions[r.Name] = r.Version
			if len(r.Aliases) > 0 {
				out.Aliases[r.Name] = r.Aliases
			}
		}
		return out, nil
	}
	m, err := s.sotw.Recv()
	if err != nil {
		return nil, err
	}
	out.Type, out.Nonce, out.Version = m.TypeUrl, m.Nonce, m.VersionInfo
	for i, r := range m.Resources {
		out.Resources[fmt.Sprint(i)] = r.Value
	}
	return out, nil
}

// Await answers every response with an acceptance until one of a type holds
// name, and returns its body. Delta streams only.
func (s *Stream) Await(typeURL, name string) ([]byte, error) {
	for {
		r, err := s.Next()
		if err != nil {
			return nil, err
		}
		if err := s.Answer(r, ""); err != nil {
			return nil, err
		}
		if b, ok := r.Resources[name]; ok && r.Type == typeURL {
			return b, nil
		}
	}
}
