package route

import (
	"bytes"
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/why"
)

// maxHost bounds the host names that can match a domain; longer ones only
// reach the "*" virtual host. DNS names have at most 253 bytes.
const maxHost = 512

// Host finds the virtual host for an authority: exact, then the longest
// "*.suffix", then the longest "prefix.*", then "*". Case does not matter, the
// port only when the table does not ignore it. A wildcard stands for at least
// one byte. nil: none.
func Host(t *conf.RouteTable, authority []byte, w *why.Why) *conf.VirtualHost {
	host := authority
	if t.IgnorePort {
		host = WithoutPort(host)
	}
	if len(host) <= maxHost {
		for _, c := range host {
			if c-'A' < 26 {
				return hostInLower(t, host, w)
			}
		}
	}
	return findHost(t, host, w)
}

// hostInLower is Host for one of mixed case.
func hostInLower(t *conf.RouteTable, host []byte, w *why.Why) *conf.VirtualHost {
	var buf [maxHost]byte
	l := buf[:len(host)]
	for i, c := range host {
		l[i] = lower(c)
	}
	return findHost(t, l, w)
}

// findHost: host is in lower case, unless it is longer than any domain.
func findHost(t *conf.RouteTable, host []byte, w *why.Why) *conf.VirtualHost {
	if len(host) <= maxHost {
		if v := t.Exact[string(host)]; v != nil {
			if w.On() {
				w.Add("virtual_host", v.Origin, "matched", "host %s is a domain of %s", string(host), v.Name)
			}
			return v
		}
		for i := range t.Suffix {
			if p := t.Suffix[i].Part; len(host) > len(p) && string(host[len(host)-len(p):]) == p {
				if w.On() {
					w.Add("virtual_host", t.Suffix[i].Host.Origin, "matched", "host %s is under *%s of %s", string(host), p, t.Suffix[i].Host.Name)
				}
				return t.Suffix[i].Host
			}
		}
		for i := range t.Prefix {
			if p := t.Prefix[i].Part; len(host) > len(p) && string(host[:len(p)]) == p {
				if w.On() {
					w.Add("virtual_host", t.Prefix[i].Host.Origin, "matched", "host %s is under %s* of %s", string(host), p, t.Prefix[i].Host.Name)
				}
				return t.Prefix[i].Host
			}
		}
	}
	if t.Any != nil {
		if w.On() {
			w.Add("virtual_host", t.Any.Origin, "matched", "host %s is none of the domains of route table %s; %s takes any host", string(host), t.Name, t.Any.Name)
		}
		return t.Any
	}
	if w.On() {
		w.Add("virtual_host", "", "no_match", "host %s is none of the domains of route table %s: %s", string(host), t.Name, domains(t))
	}
	return nil
}

// domains lists up to 20 domains of a table for people.
func domains(t *conf.RouteTable) string {
	var all []string
	for _, v := range t.Hosts {
		all = append(all, v.Domains...)
	}
	switch n := len(all); {
	case n == 0:
		return "it has none"
	case n > 20:
		return strings.Join(all[:20], ", ") + ", ..."
	}
	return strings.Join(all, ", ")
}

// WithoutPort is the authority without ":port"; IPv6 literals keep their
// brackets.
func WithoutPort(a []byte) []byte {
	i := bytes.LastIndexByte(a, ':')
	if i < 0 || bytes.LastIndexByte(a, ']') > i {
		return a
	}
	return a[:i]
}

// StripPort removes the port from the request's authority as the manager is
// configured. CONNECT keeps it (its authority is the destination).
func StripPort(h *stream.Head, mode conf.StripPort, local uint16) {
	if mode == conf.KeepPort || IsConnect(h) {
		return
	}
	host := WithoutPort(h.Authority)
	if len(host) == len(h.Authority) {
		return
	}
	port, ok := parseInt(h.Authority[len(host)+1:])
	if !ok || mode == conf.StripMatching && port != int64(local) {
		return
	}
	h.Authority = host
}
