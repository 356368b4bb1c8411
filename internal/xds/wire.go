package xds

import (
	"slices"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoverypb "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
)

// request is a message from the client, of either protocol.
type request struct {
	typeURL string
	nonce   string
	refusal string // the client's error text
	refused bool
	node    *Node // nil when the message has none

	names []string // state-of-the-world: the whole subscription

	subscribe, unsubscribe []string          // delta
	known                  map[string]string // delta: versions that the client brings
}

// wire is one protocol variant on one stream. receive and send may each be
// called by one goroutine at a time.
type wire interface {
	receive() (*request, error)
	send(r *response, version string) error
	delta() bool
}

type sotwWire struct {
	g       grpc.BidiStreamingServer[discoverypb.DiscoveryRequest, discoverypb.DiscoveryResponse]
	name    string
	encoded bool // the server has our Codec
}

func (*sotwWire) delta() bool { return false }

func (w *sotwWire) receive() (*request, error) {
	m, err := w.g.Recv()
	if err != nil {
		return nil, err
	}
	return &request{
		typeURL: m.TypeUrl,
		nonce:   m.ResponseNonce,
		refusal: m.GetErrorDetail().GetMessage(),
		refused: m.ErrorDetail != nil,
		node:    node(m.Node),
		names:   m.ResourceNames,
	}, nil
}

func (w *sotwWire) send(r *response, version string) error {
	if w.encoded {
		return w.g.SendMsg(encodeSotw(r, version, w.name))
	}
	m := &discoverypb.DiscoveryResponse{
		VersionInfo:  version,
		TypeUrl:      r.typeURL,
		Nonce:        r.nonce,
		ControlPlane: &corepb.ControlPlane{Identifier: w.name},
		Resources:    make([]*anypb.Any, 0, len(r.resources)),
	}
	for _, x := range r.resources {
		m.Resources = append(m.Resources, &anypb.Any{TypeUrl: x.Type, Value: x.Body})
	}
	return w.g.Send(m)
}

type deltaWire struct {
	g       grpc.BidiStreamingServer[discoverypb.DeltaDiscoveryRequest, discoverypb.DeltaDiscoveryResponse]
	name    string
	encoded bool // the server has our Codec
}

func (*deltaWire) delta() bool { return true }

func (w *deltaWire) receive() (*request, error) {
	m, err := w.g.Recv()
	if err != nil {
		return nil, err
	}
	return &request{
		typeURL:     m.TypeUrl,
		nonce:       m.ResponseNonce,
		refusal:     m.GetErrorDetail().GetMessage(),
		refused:     m.ErrorDetail != nil,
		node:        node(m.Node),
		subscribe:   m.ResourceNamesSubscribe,
		unsubscribe: m.ResourceNamesUnsubscribe,
		known:       m.InitialResourceVersions,
	}, nil
}

func (w *deltaWire) send(r *response, version string) error {
	if w.encoded {
		return w.g.SendMsg(encodeDelta(r, version, w.name))
	}
	m := &discoverypb.DeltaDiscoveryResponse{
		SystemVersionInfo: version,
		TypeUrl:           r.typeURL,
		Nonce:             r.nonce,
		RemovedResources:  r.removed,
		ControlPlane:      &corepb.ControlPlane{Identifier: w.name},
		Resources:         make([]*discoverypb.Resource, 0, len(r.resources)),
	}
	for _, x := range r.resources {
		m.Resources = append(m.Resources, &discoverypb.Resource{
			Name: x.Name, Version: x.Version, Aliases: r.aliases[x.Name], Resource: &anypb.Any{TypeUrl: x.Type, Value: x.Body},
		})
	}
	return w.g.Send(m)
}

// node keeps what is looked at of a client's description of itself.
func node(n *corepb.Node) *Node {
	if n == nil {
		return nil
	}
	out := &Node{
		ID:        n.Id,
		Cluster:   n.Cluster,
		UserAgent: n.UserAgentName,
		Version:   n.GetUserAgentVersion(),
		Features:  slices.Clone(n.ClientFeatures),
		Metadata:  map[string]string{},
	}
	for k, v := range n.GetMetadata().GetFields() {
		if s := v.GetStringValue(); s != "" {
			out.Metadata[k] = s
		}
	}
	return out
}
