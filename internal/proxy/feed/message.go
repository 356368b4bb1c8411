package feed

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Methods of the aggregated discovery service, and of the Istio CA API.
const (
	deltaMethod = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
	sotwMethod  = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
	csrMethod   = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
)

// Node is what the proxy says about itself. The control plane believes none of
// it; it may narrow what is sent.
type Node struct {
	ID        string
	Cluster   string
	UserAgent string // as "tulle-proxy"
	Version   string
	Features  []string
	Metadata  map[string]string
}

// request is a message to the control plane, of either protocol.
type request struct {
	node    *Node // first message of a stream only
	typeURL string
	nonce   string
	refusal string // empty: none

	subscribe, unsubscribe []string          // delta
	known                  map[string]string // delta: versions held, on a new stream

	names   []string // state of the world: the whole subscription
	version string   // state of the world: last accepted
}

// resource is one of a response. body aliases the message.
type resource struct {
	name, version string // state of the world has neither here
	aliases       []string
	typeURL       string
	body          []byte
}

// response is a message from the control plane, of either protocol.
type response struct {
	typeURL   string
	nonce     string
	version   string
	resources []resource
	removed   []string // delta only
}

func putString(b []byte, n protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), s)
}

func putBytes(b []byte, n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
}

// encode writes envoy.config.core.v3.Node.
func (n *Node) encode() []byte {
	b := putString(nil, 1, n.ID)
	b = putString(b, 2, n.Cluster)
	if len(n.Metadata) > 0 {
		var m []byte
		for k, v := range n.Metadata {
			value := putString(nil, 3, v)
			entry := putBytes(putString(nil, 1, k), 2, value)
			m = putBytes(m, 1, entry)
		}
		b = putBytes(b, 3, m)
	}
	b = putString(b, 6, n.UserAgent)
	b = putString(b, 7, n.Version)
	for _, f := range n.Features {
		b = putBytes(b, 10, []byte(f))
	}
	return b
}

// refusalDetail writes google.rpc.Status with code INVALID_ARGUMENT.
func refusalDetail(text string) []byte {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 3)
	return putString(b, 2, text)
}

// delta writes a DeltaDiscoveryRequest.
func (r *request) delta() []byte {
	var b []byte
	if r.node != nil {
		b = putBytes(b, 1, r.node.encode())
	}
	b = putString(b, 2, r.typeURL)
	for _, n := range r.subscribe {
		b = putBytes(b, 3, []byte(n))
	}
	for _, n := range r.unsubscribe {
		b = putBytes(b, 4, []byte(n))
	}
	for k, v := range r.known {
		b = putBytes(b, 5, putString(putString(nil, 1, k), 2, v))
	}
	b = putString(b, 6, r.nonce)
	if r.refusal != "" {
		b = putBytes(b, 7, refusalDetail(r.refusal))
	}
	return b
}

// sotw writes a DiscoveryRequest.
func (r *request) sotw() []byte {
	b := putString(nil, 1, r.version)
	if r.node != nil {
		b = putBytes(b, 2, r.node.encode())
	}
	for _, n := range r.names {
		b = putBytes(b, 3, []byte(n))
	}
	b = putString(b, 4, r.typeURL)
	b = putString(b, 5, r.nonce)
	if r.refusal != "" {
		b = putBytes(b, 6, refusalDetail(r.refusal))
	}
	return b
}

var errMalformed = errors.New("malformed message")

// each calls f for every field of a message; v is empty for other than
// length-delimited ones. Unknown fields are the caller's to ignore: the
// envelope may grow, only resources are strict.
func each(b []byte, f func(n protowire.Number, v []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		var v []byte
		if typ == protowire.BytesType {
			v, n = protowire.ConsumeBytes(b)
		} else {
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		if err := f(num, v); err != nil {
			return err
		}
	}
	return nil
}

// parseDelta reads a DeltaDiscoveryResponse.
func parseDelta(b []byte) (*response, error) {
	r := &response{}
	err := each(b, func(n protowire.Number, v []byte) error {
		switch n {
		case 1:
			r.version = string(v)
		case 2:
			x, err := parseResource(v)
			if err != nil {
				return err
			}
			r.resources = append(r.resources, x)
		case 4:
			r.typeURL = string(v)
		case 5:
			r.nonce = string(v)
		case 6:
			r.removed = append(r.removed, string(v))
		case 8:
			// removed_resource_names: only used with dynamic parameters, which
			// are never asked for.
		}
		return nil
	})
	return r, r.check(err)
}

// parseResource reads a discovery Resource.
func parseResource(b []byte) (x resource, err error) {
	err = each(b, func(n protowire.Number, v []byte) error {
		switch n {
		case 1:
			x.version = string(v)
		case 2:
			x.typeURL, x.body, err = parseAny(v)
			return err
		case 3:
			x.name = string(v)
		case 4:
			if len(x.aliases) < maxAliases {
				x.aliases = append(x.aliases, string(v))
			}
		}
		return nil
	})
	return x, err
}

func parseAny(b []byte) (url string, body []byte, err error) {
	err = each(b, func(n protowire.Number, v []byte) error {
		switch n {
		case 1:
			url = string(v)
		case 2:
			body = v
		}
		return nil
	})
	return url, body, err
}

// parseSotw reads a DiscoveryResponse. Names are peeked at in the bodies.
func parseSotw(b []byte) (*response, error) {
	r := &response{}
	err := each(b, func(n protowire.Number, v []byte) error {
		switch n {
		case 1:
			r.version = string(v)
		case 2:
			url, body, err := parseAny(v)
			if err != nil {
				return err
			}
			x := resource{typeURL: url, body: body}
			_ = each(body, func(n protowire.Number, v []byte) error {
				if n == 1 { // the name, in all types that are asked for
					x.name = string(v)
				}
				return nil
			})
			r.resources = append(r.resources, x)
		case 4:
			r.typeURL = string(v)
		case 5:
			r.nonce = string(v)
		}
		return nil
	})
	for i := range r.resources {
		r.resources[i].version = r.version
	}
	return r, r.check(err)
}

// Bounds of the names of resources, in bytes, and of the other names of one.
const (
	maxName    = 4096
	maxAliases = 1024
)

func (r *response) check(err error) error {
	if err != nil {
		return err
	}
	for _, x := range r.resources {
		for _, n := range append([]string{x.name}, x.aliases...) {
			if len(n) > maxName || !utf8.ValidString(n) {
				return fmt.Errorf("%w: a resource's name", errMalformed)
			}
		}
	}
	return nil
}
