package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/why"
)

// sidecarListener finds where a captured connection of the caller arrives.
func (r *run) sidecarListener(s *side, in *inflight) *conf.Listener {
	addr, text := r.address(s)
	if svc := service(s.view, r.host); svc != nil {
		var ports []string
		for _, p := range svc.Ports {
			ports = append(ports, fmt.Sprint(p.Number))
		}
		if !slices.Contains(ports, fmt.Sprint(r.port)) {
			text += fmt.Sprintf("; it has no port %d, it has %s", r.port, strings.Join(ports, ", "))
		}
	}
	in.destination = netip.AddrPortFrom(addr, r.port)
	s.step("destination", "found", text)
	v := s.snap.Listeners["virtualOutbound"]
	if v == nil {
		s.step("listener", "no_match", "the proxy has no outbound listener")
		return nil
	}
	var w why.Why
	l := s.index.Handover(v, in.destination, &w)
	s.tell(&w, true)
	return l
}

// address is where the caller's program would connect to, and how that is known.
func (r *run) address(s *side) (netip.Addr, string) {
	if a, err := netip.ParseAddr(r.host); err == nil {
		return a.Unmap(), "the URL names the address " + a.String()
	}
	svc := service(s.view, r.host)
	if svc == nil {
		if a, text := pod(s.view, r.host); a.IsValid() {
			return a, text
		}
		if p, host := r.c.Mesh.Hidden(s.view.Client, r.host); p != nil {
			s.stepAt("sidecar", "hidden", fmt.Sprintf("this Sidecar does not list %s for %s: its proxy is not told of it", host, s.name), p.Origin)
		}
		return somewhere, fmt.Sprintf("%s is no service that %s may see; %s stands for its address", r.host, s.name, somewhere)
	}
	for _, p := range svc.Addresses {
		return p.Addr(), fmt.Sprintf("%s is service %s at %s", r.host, svc.Host, p.Addr())
	}
	if svc.Headless || svc.Resolution == model.Passthrough {
		for _, c := range s.view.Clusters {
			if c.Service != svc {
				continue
			}
			for _, e := range c.Endpoints {
				if a, err := netip.ParseAddr(e.Address); err == nil {
					return a.Unmap(), fmt.Sprintf("%s is service %s without an address of its own; its endpoint %s is called", r.host, svc.Host, a)
				}
			}
		}
	}
	return somewhere, fmt.Sprintf("%s is service %s without an address; %s stands for one", r.host, svc.Host, somewhere)
}

// pod finds one of the pods of a headless service by its own name, as
// db-0.db.shop: a StatefulSet names its pods so.
func pod(v *model.View, host string) (netip.Addr, string) {
	name, rest, ok := strings.Cut(host, ".")
	if !ok {
		return netip.Addr{}, ""
	}
	svc := service(v, rest)
	if svc == nil || !svc.Headless {
		return netip.Addr{}, ""
	}
	for _, c := range v.Clusters {
		if c.Service != svc {
			continue
		}
		for _, e := range c.Endpoints {
			a, err := netip.ParseAddr(e.Address)
			if err == nil && e.Workload == svc.Namespace+"/"+name {
				return a.Unmap(), fmt.Sprintf("%s is pod %s of service %s, at %s", host, e.Workload, svc.Host, a.Unmap())
			}
		}
	}
	return netip.Addr{}, ""
}

// service that a client means by a host name: its own name, or one of the short
// names of a Kubernetes service.
func service(v *model.View, host string) *model.Service {
	var wild *model.Service
	for _, c := range v.Clusters {
		svc := c.Service
		switch {
		case svc == nil:
		case svc.Host == host:
			return svc
		case svc.Kubernetes && slices.Contains(shortNames(svc, v.Client.Namespace), host):
			return svc
		case strings.HasPrefix(svc.Host, "*") && strings.HasSuffix(host, svc.Host[1:]) && (wild == nil || len(svc.Host) > len(wild.Host)):
			wild = svc
		}
	}
	if wild == nil || wild.Host != host {
		for alias, of := range v.Aliases {
			if host == alias || slices.Contains(aliasShorts(alias, v.Client.Namespace), host) {
				return service(v, of)
			}
		}
	}
	return wild
}

// aliasShorts are the short names of an ExternalName Service.
func aliasShorts(host, from string) []string {
	parts := strings.SplitN(host, ".", 3)
	if len(parts) < 3 || !strings.HasPrefix(parts[2], "svc.") {
		return nil
	}
	return shortNames(&model.Service{Name: parts[0], Namespace: parts[1]}, from)
}

func shortNames(svc *model.Service, from string) []string {
	out := []string{svc.Name + "." + svc.Namespace, svc.Name + "." + svc.Namespace + ".svc"}
	if svc.Namespace == from {
		out = append(out, svc.Name)
	}
	return out
}

// gatewayListener finds the gateway's socket by the port that clients use: the
// Gateway's, or the one the process really opens.
func (r *run) gatewayListener(s *side, in *inflight) *conf.Listener {
	var ports []string
	for _, p := range s.view.Servers {
		if p.External == r.port || p.Port == r.port {
			l := s.snap.Listeners[p.Name]
			if l == nil {
				break
			}
			in.destination = netip.AddrPortFrom(r.source, p.Port)
			if p.Listen.IsValid() {
				in.destination = p.Listen
			}
			s.entry = p.Origin
			s.stepAt("listener", "matched", fmt.Sprintf("port %d is listener %s", r.port, l.Name), p.Origin)
			return l
		}
		ports = append(ports, fmt.Sprint(p.External))
	}
	open := "none"
	if len(ports) > 0 {
		open = strings.Join(ports, ", ")
	}
	s.step("listener", "no_match", fmt.Sprintf("the gateway does not listen on port %d; it listens on: %s", r.port, open))
	for _, b := range s.view.Broken {
		if slices.ContainsFunc(b.Hosts, func(h string) bool { return covers(h, r.host) }) {
			s.stepAt("listener", "broken", b.Why+"; its hosts "+strings.Join(b.Hosts, ", ")+" are not served", b.Origin)
		}
	}
	return nil
}
