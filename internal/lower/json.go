package lower

import (
	"bytes"
	"encoding/json"
	"fmt"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlspb "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Message decodes a resource.
func (r Resource) Message() (proto.Message, error) {
	m, err := (&anypb.Any{TypeUrl: r.Type, Value: r.Body}).UnmarshalNew()
	if err != nil {
		return nil, fmt.Errorf("decode %s %s: %w", r.Type, r.Name, err)
	}
	return m, nil
}

// JSON prints out as an object by type URL, then by name, of the v3 messages
// in protojson with proto field names. Key material and certificates given
// inline are redacted. The text of equal outputs is equal.
func JSON(out *Output) ([]byte, error) {
	all := map[string]map[string]json.RawMessage{}
	for _, t := range Types {
		if len(out.Resources[t]) == 0 {
			continue
		}
		all[t] = map[string]json.RawMessage{}
		for _, r := range out.Resources[t] {
			j, err := r.JSON()
			if err != nil {
				return nil, err
			}
			all[t][r.Name] = j
		}
	}
	b, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("print resources: %w", err)
	}
	return indent(b)
}

// JSON prints one resource, redacted.
func (r Resource) JSON() ([]byte, error) {
	m, err := r.Message()
	if err != nil {
		return nil, err
	}
	if s, ok := m.(*tlspb.Secret); ok {
		redact(s)
	}
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("print %s %s: %w", r.Type, r.Name, err)
	}
	return indent(b)
}

// indent also evens out the white space that protojson varies on purpose.
func indent(b []byte) ([]byte, error) {
	var compact, out bytes.Buffer
	if err := json.Compact(&compact, b); err != nil {
		return nil, fmt.Errorf("print resources: %w", err)
	}
	if err := json.Indent(&out, compact.Bytes(), "", "  "); err != nil {
		return nil, fmt.Errorf("print resources: %w", err)
	}
	return out.Bytes(), nil
}

func redact(s *tlspb.Secret) {
	hide := func(d *corepb.DataSource) {
		if d == nil {
			return
		}
		if _, isFile := d.Specifier.(*corepb.DataSource_Filename); !isFile {
			d.Specifier = &corepb.DataSource_InlineString{InlineString: "[redacted]"}
		}
	}
	switch t := s.Type.(type) {
	case *tlspb.Secret_TlsCertificate:
		hide(t.TlsCertificate.GetCertificateChain())
		hide(t.TlsCertificate.GetPrivateKey())
	case *tlspb.Secret_ValidationContext:
		hide(t.ValidationContext.GetTrustedCa())
	default: // nothing else is ours; show nothing of it
		s.Type = nil
	}
}
