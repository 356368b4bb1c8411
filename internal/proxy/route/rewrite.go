package route

import (
	"bytes"
	"strconv"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Path is everything that was chosen for a request.
type Path struct {
	Table   *conf.RouteTable
	Host    *conf.VirtualHost
	Route   *conf.Route
	Cluster *conf.WeightedCluster // nil: cluster_header, redirect, direct response
}

// Rewrite makes the upstream request of r.Head, in place: header edits (of the
// weighted cluster, the route, the virtual host, the table, in this order),
// then host and path. The original path and host are kept in
// x-envoy-original-path and x-envoy-original-host. For retries it is called
// once; AutoHost follows per endpoint.
func Rewrite(p *Path, r *Request) {
	h := r.Head
	if p.Cluster != nil {
		Edit(h, &p.Cluster.Request, r)
	}
	Edit(h, &p.Route.Request, r)
	Edit(h, &p.Host.Request, r)
	Edit(h, &p.Table.Request, r)
	f := p.Route.Forward
	if f == nil {
		return
	}
	if p.Cluster != nil && p.Cluster.HostRewrite != "" {
		setHost(h, p.Cluster.HostRewrite, f.AppendXFH)
	} else if f.HostRewrite != "" {
		setHost(h, f.HostRewrite, f.AppendXFH)
	}
	if f.HasPrefixRewrite || f.RegexRewrite != nil {
		rewritePath(h, &p.Route.Match, f.PrefixRewrite, f.HasPrefixRewrite, f)
	}
}

// AutoHost sets the authority to the endpoint's name, where the route says so.
// An endpoint without a name changes nothing.
func AutoHost(f *conf.Forward, h *stream.Head, name string) {
	if f.AutoHost && name != "" {
		setHost(h, name, f.AppendXFH)
	}
}

func setHost(h *stream.Head, host string, xfh bool) {
	if old := h.Authority; len(old) > 0 {
		if xfh {
			appendForwardedHost(h, old)
		}
		h.Set("x-envoy-original-host", old)
	}
	h.Authority = h.KeepString(host)
}

// appendForwardedHost appends the old host to x-forwarded-host unless it is
// already the last one there.
func appendForwardedHost(h *stream.Head, old []byte) {
	v := h.Joined("x-forwarded-host")
	if len(v) == 0 {
		h.Set("x-forwarded-host", old)
		return
	}
	if bytes.Equal(v[bytes.LastIndexByte(v, ',')+1:], old) {
		return
	}
	var buf [256]byte
	h.Set("x-forwarded-host", append(append(append(buf[:0], v...), ','), old...))
}

// rewritePath replaces the matched part of the path by a prefix, or the path
// by a regular expression. The query stays.
func rewritePath(h *stream.Head, m *conf.Match, prefix string, hasPrefix bool, f *conf.Forward) {
	if len(h.Path) == 0 {
		return
	}
	var buf [512]byte
	out := buf[:0]
	path := PathOnly(h.Path)
	if hasPrefix {
		n := matched(m, path)
		out = append(append(out, prefix...), h.Path[n:]...)
	} else {
		out = replaceAll(out, f, path)
		out = append(out, h.Path[len(path):]...)
	}
	h.Set("x-envoy-original-path", h.Path)
	h.Path = h.Keep(out)
}

// matched is how much of the path a prefix rewrite replaces: the prefix, or
// the whole path for exact and regex matches.
func matched(m *conf.Match, path []byte) int {
	switch m.Kind {
	case conf.PathPrefix, conf.PathSegments:
		return min(len(m.Path), len(path))
	case conf.PathConnect:
		return 0
	}
	return len(path)
}

// replaceAll appends path with every match of the expression replaced; \1 is
// the first group, \0 the whole match, \\ a backslash (RE2's form).
func replaceAll(dst []byte, f *conf.Forward, path []byte) []byte {
	last := 0
	for _, m := range f.RegexRewrite.FindAllSubmatchIndex(path, -1) {
		dst = append(dst, path[last:m[0]]...)
		for i, s := 0, f.RegexReplace; i < len(s); i++ {
			if s[i] != '\\' || i+1 == len(s) {
				dst = append(dst, s[i])
				continue
			}
			i++
			if c := s[i]; c < '0' || c > '9' {
				dst = append(dst, c)
			} else if g := 2 * int(c-'0'); g+1 < len(m) && m[g] >= 0 {
				dst = append(dst, path[m[g]:m[g+1]]...)
			}
		}
		last = m[1]
	}
	return append(dst, path[last:]...)
}

// EditResponse applies the response edits of all levels to h; r.Head is still
// the request, r.Response becomes h.
func EditResponse(p *Path, h *stream.Head, r *Request) {
	r.Response = h
	if p.Cluster != nil {
		Edit(h, &p.Cluster.Response, r)
	}
	Edit(h, &p.Route.Response, r)
	Edit(h, &p.Host.Response, r)
	Edit(h, &p.Table.Response, r)
}

// Location appends the address that a redirect of this request points to.
// Scheme, host, port and path not given are the request's; a default port of
// the old scheme (:80 of http, :443 of https) is dropped when the scheme
// changes, and any port when the redirect names one.
func Location(dst []byte, p *Path, h *stream.Head) []byte {
	d := p.Route.Redirect
	scheme, at := d.Scheme, len(dst)
	if scheme == "" && d.HTTPS {
		scheme = "https"
	}
	if scheme == "" {
		dst = append(dst, h.Scheme...)
	} else {
		dst = append(dst, scheme...)
	}
	n := len(dst)
	dst = append(dst, "://"...)
	if d.Host != "" {
		dst = append(dst, d.Host...)
	} else {
		dst = append(dst, redirectHost(h, dst[at:n], d.Port != 0)...)
	}
	if d.Port != 0 {
		dst = strconv.AppendUint(append(dst, ':'), uint64(d.Port), 10)
	}
	return appendRedirectPath(dst, d, &p.Route.Match, h.Path)
}

func appendRedirectPath(dst []byte, d *conf.Redirect, m *conf.Match, path []byte) []byte {
	at := len(dst)
	ownQuery := false
	switch {
	case d.Path != "":
		dst = append(dst, d.Path...)
		if ownQuery = bytes.IndexByte(dst[at:], '?') >= 0; !ownQuery {
			if i := bytes.IndexByte(path, '?'); i >= 0 {
				dst = append(dst, path[i:]...)
			}
		}
	case d.HasPrefixRewrite:
		dst = append(dst, d.PrefixRewrite...)
		dst = append(dst, path[matched(m, PathOnly(path)):]...)
	default:
		dst = append(dst, path...)
	}
	if d.StripQuery && !ownQuery {
		if i := bytes.IndexByte(dst[at:], '?'); i >= 0 {
			dst = dst[:at+i]
		}
	}
	return dst
}

func redirectHost(h *stream.Head, scheme []byte, newPort bool) []byte {
	host := h.Authority
	if len(host) == 0 {
		return host
	}
	end := bytes.LastIndexByte(host, ':')
	if host[0] == '[' {
		if end = bytes.LastIndex(host, []byte("]:")); end >= 0 {
			end++
		}
	}
	if end < 0 {
		return host
	}
	drop := newPort
	if was := forwardedProto(h); !bytes.Equal(scheme, was) {
		port := string(host[end:])
		drop = drop || string(was) == "https" && port == ":443" || string(was) == "http" && port == ":80"
	}
	if drop {
		return host[:end]
	}
	return host
}
