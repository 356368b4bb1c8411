package lower

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/tulle-mesh/tulle/internal/model"
)

// headerEdit is one direction of header operations in Envoy's form.
type headerEdit struct {
	add    []*corepb.HeaderValueOption
	remove []string
}

// headerOps lowers h. link has made authority rewrites of Host headers.
func (l *Lowering) headerOps(h *model.HeaderOps, o model.Origin) (request, response headerEdit) {
	if h == nil {
		return request, response
	}
	return l.headerEdit(&h.Request, o), l.headerEdit(&h.Response, o)
}

func (l *Lowering) headerEdit(e *model.HeaderEdit, o model.Origin) headerEdit {
	var out headerEdit
	add := func(h model.Header, action corepb.HeaderValueOption_HeaderAppendAction) {
		if !l.editable(h.Name, o) {
			return
		}
		out.add = append(out.add, &corepb.HeaderValueOption{
			Header:         &corepb.HeaderValue{Key: h.Name, Value: l.headerValue(h, o)},
			AppendAction:   action,
			KeepEmptyValue: h.Value == "",
		})
	}
	for _, h := range e.Set {
		add(h, corepb.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD)
	}
	for _, h := range e.Add {
		add(h, corepb.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD)
	}
	for _, name := range e.Remove {
		if l.editable(name, o) {
			out.remove = append(out.remove, name)
		}
	}
	return out
}

// editable is false for what Envoy does not let header operations touch: one
// such name would make it refuse the whole table.
func (l *Lowering) editable(name string, o model.Origin) bool {
	n := strings.ToLower(name)
	if n == "" || n == "host" || strings.HasPrefix(n, ":") || strings.ContainsAny(n, "\x00\r\n") {
		l.notice(model.Error, model.Invalid, o, fmt.Sprintf("header %q cannot be edited", name))
		return false
	}
	return true
}

// command is one of Envoy's substitutions, as %REQ(x-id)% or %PROTOCOL%.
var command = regexp.MustCompile(`^%([A-Z][A-Z0-9_]*)(\([^%]*\))?(:\d+)?%`)

// commands that header values may use.
var commands = func() map[string]bool {
	m := map[string]bool{}
	for name := range strings.FieldsSeq(`
		REQ RESP TRAILER PROTOCOL RESPONSE_CODE RESPONSE_FLAGS RESPONSE_CODE_DETAILS ROUTE_NAME VIRTUAL_CLUSTER_NAME
		START_TIME HOSTNAME REQUESTED_SERVER_NAME STREAM_ID CONNECTION_ID
		DOWNSTREAM_REMOTE_ADDRESS DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT DOWNSTREAM_REMOTE_PORT
		DOWNSTREAM_DIRECT_REMOTE_ADDRESS DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT
		DOWNSTREAM_LOCAL_ADDRESS DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT DOWNSTREAM_LOCAL_PORT
		DOWNSTREAM_PEER_URI_SAN DOWNSTREAM_LOCAL_URI_SAN DOWNSTREAM_PEER_SUBJECT DOWNSTREAM_LOCAL_SUBJECT
		DOWNSTREAM_PEER_ISSUER DOWNSTREAM_PEER_SERIAL DOWNSTREAM_PEER_FINGERPRINT_256 DOWNSTREAM_PEER_FINGERPRINT_1
		DOWNSTREAM_PEER_CERT DOWNSTREAM_PEER_CERT_V_START DOWNSTREAM_PEER_CERT_V_END
		DOWNSTREAM_TLS_SESSION_ID DOWNSTREAM_TLS_CIPHER DOWNSTREAM_TLS_VERSION
		UPSTREAM_REMOTE_ADDRESS UPSTREAM_LOCAL_ADDRESS UPSTREAM_HOST UPSTREAM_CLUSTER UPSTREAM_CLUSTER_RAW
		UPSTREAM_METADATA DYNAMIC_METADATA PER_REQUEST_STATE FILTER_STATE`) {
		m[name] = true
	}
	return m
}()

// headerValue keeps Envoy's substitutions and takes every other percent sign
// literally: Envoy refuses a table with one that it cannot read.
func (l *Lowering) headerValue(h model.Header, o model.Origin) string {
	if !strings.Contains(h.Value, "%") {
		return h.Value
	}
	var b strings.Builder
	for s := h.Value; s != ""; {
		i := strings.IndexByte(s, '%')
		if i < 0 {
			b.WriteString(s)
			break
		}
		b.WriteString(s[:i])
		s = s[i:]
		if strings.HasPrefix(s, "%%") {
			b.WriteString("%%")
			s = s[2:]
			continue
		}
		if m := command.FindStringSubmatch(s); m != nil && commands[m[1]] {
			b.WriteString(m[0])
			s = s[len(m[0]):]
			continue
		} else if m != nil {
			l.notice(model.Warning, model.Unsupported, o, fmt.Sprintf("header %s: %s is no known substitution and is sent as it stands", h.Name, m[0]))
		}
		b.WriteString("%%")
		s = s[1:]
	}
	return b.String()
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }
