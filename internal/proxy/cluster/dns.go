package cluster

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// Resolver finds the addresses of a name. Implementations are called from
// several goroutines, off the loops. network is "ip", "ip4" or "ip6".
type Resolver interface {
	Lookup(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// System asks as the operating system is configured.
type System struct{}

// Lookup implements Resolver.
func (System) Lookup(ctx context.Context, network, host string) ([]netip.Addr, error) {
	as, err := net.DefaultResolver.LookupNetIP(ctx, network, host)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", host, err)
	}
	return as, nil
}

const (
	dnsRefresh = 5 * time.Second  // Envoy's default
	dnsTimeout = 10 * time.Second // of one question
	maxAnswers = 1024             // addresses of one name that count
)

// dns is the names of one DNS cluster with their last good answers.
type dns struct {
	conf       *conf.Cluster
	endpoints  *conf.Endpoints
	names      map[string]*answer
	generation uint64 // grows with every answer that changes something
	next       int64  // when to ask again
}

type answer struct {
	addrs  []netip.Addr // sorted; last good
	asked  bool         // some answer came, good or bad
	flying bool
}

// watchDNS makes h.dns fit the configuration, keeping answers of names that
// stay. h.mu is held.
func (h *Handle) watchDNS(r *Registry, c *conf.Cluster, eps *conf.Endpoints, now int64) {
	if h.dns != nil && h.dns.conf == c && h.dns.endpoints == eps {
		return
	}
	old := h.dns
	d := &dns{conf: c, endpoints: eps, names: map[string]*answer{}}
	if old != nil {
		d.generation = old.generation + 1
	}
	if eps != nil {
		for i := range eps.Localities {
			for j := range eps.Localities[i].Endpoints {
				name := eps.Localities[i].Endpoints[j].Host
				if name == "" || d.names[name] != nil {
					continue
				}
				a := &answer{}
				if ip, err := netip.ParseAddr(name); err == nil {
					a.addrs, a.asked = []netip.Addr{ip.Unmap()}, true
				} else if old != nil && old.names[name] != nil {
					a = old.names[name]
				}
				d.names[name] = a
			}
		}
	}
	h.dns = d
	h.ask(r, now)
}

func (d *dns) answered() bool {
	for _, a := range d.names {
		if !a.asked {
			return false
		}
	}
	return true
}

// ask starts questions that are due. h.mu is held.
func (h *Handle) ask(r *Registry, now int64) {
	d := h.dns
	if now < d.next {
		return
	}
	d.next = now + int64(orDefault(d.conf.DNSRefresh, dnsRefresh))
	for name, a := range d.names {
		if a.flying {
			continue
		}
		if _, err := netip.ParseAddr(name); err == nil {
			continue
		}
		select {
		case r.asking <- struct{}{}:
		default:
			d.next = now // no slot: at the next tick
			continue
		}
		a.flying = true
		family := d.conf.DNSFamily
		r.done.Go(func() {
			defer func() { <-r.asking }()
			addrs, err := lookup(r.ctx, r.opts.Resolver, family, name)
			h.mu.Lock()
			defer h.mu.Unlock()
			h.resolved(r, a, addrs, err)
		})
	}
}

// lookup asks for the families wanted: auto prefers IPv6 and falls back.
func lookup(ctx context.Context, res Resolver, family, name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	network := map[string]string{"v4": "ip4", "v6": "ip6"}[family]
	if network == "" {
		network = "ip"
	}
	as, err := res.Lookup(ctx, network, name)
	if err != nil {
		return nil, err
	}
	var v4, v6 []netip.Addr
	for _, a := range as {
		if a = a.Unmap(); a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	out := append(v6, v4...)
	switch {
	case family == "v4":
		out = v4
	case family == "v6" || (family == "auto" || family == "") && len(v6) > 0:
		out = v6
	}
	slices.SortFunc(out, netip.Addr.Compare)
	out = slices.Compact(out)
	return out[:min(len(out), maxAnswers)], nil
}

// resolved takes an answer; an error or an empty one leaves the last good one.
// h.mu is held.
func (h *Handle) resolved(r *Registry, a *answer, addrs []netip.Addr, err error) {
	a.flying, a.asked = false, true
	if err != nil || len(addrs) == 0 || slices.Equal(addrs, a.addrs) {
		return
	}
	a.addrs = addrs
	if h.dns == nil || h.state.Load() == nil {
		return
	}
	h.dns.generation++
	h.last.resolved = h.dns.generation
	h.build(r)
}

// localities with every name replaced by its addresses. Logical DNS keeps one.
func (d *dns) localities(in []conf.Locality) []conf.Locality {
	out := slices.Clone(in)
	for i := range out {
		var eps []conf.Endpoint
		for _, e := range out[i].Endpoints {
			if e.Host == "" {
				eps = append(eps, e)
				continue
			}
			a := d.names[e.Host]
			if a == nil {
				continue
			}
			addrs := a.addrs
			if d.conf.Type == conf.ClusterLogicalDNS {
				addrs = addrs[:min(1, len(addrs))]
			}
			for _, ip := range addrs {
				n := e
				n.Addr = netip.AddrPortFrom(ip, e.Port)
				if n.Hostname == "" {
					n.Hostname = e.Host
				}
				eps = append(eps, n)
			}
		}
		out[i].Endpoints = eps
	}
	return out
}
