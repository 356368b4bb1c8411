package proxy

import (
	"fmt"
	"maps"
	"net/netip"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
)

// insideLocalhost is where host ports are opened. No listener of the control
// plane is there: peers come to addresses of the mesh.
var insideLocalhost = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// hostPort is a port of this machine's localhost at the program's localhost.
type hostPort struct {
	listener *conf.Listener
	cluster  *conf.Cluster
}

// hostPortsOf makes the nodes for the ports that the program may reach.
func hostPortsOf(ports []uint16) []hostPort {
	var out []hostPort
	for _, n := range ports {
		at := netip.AddrPortFrom(insideLocalhost, n)
		name := fmt.Sprintf("host|%d||localhost", n)
		out = append(out, hostPort{
			listener: &conf.Listener{Name: name, Addresses: []netip.AddrPort{at}, Bind: true,
				Default: &conf.Chain{Name: name, TCP: &conf.TCP{StatPrefix: name, Clusters: []conf.WeightedCluster{{Name: name, Weight: 1}}}}},
			cluster: &conf.Cluster{Name: name, Type: conf.ClusterStatic, Endpoints: &conf.Endpoints{Cluster: name,
				Localities: []conf.Locality{{Endpoints: []conf.Endpoint{{Addr: at, Weight: 1, Health: conf.Healthy}}}}}},
		})
	}
	return out
}

// withHostPorts is a snapshot with what was asked for at the start. It is not
// for the control plane to say what of this machine a program may reach.
func (p *Proxy) withHostPorts(s *conf.Snapshot) *conf.Snapshot {
	if len(p.hostPorts) == 0 {
		return s
	}
	out := *s
	out.Listeners, out.Clusters = maps.Clone(s.Listeners), maps.Clone(s.Clusters)
	for _, h := range p.hostPorts {
		out.Listeners[h.listener.Name], out.Clusters[h.cluster.Name] = h.listener, h.cluster
	}
	return &out
}
