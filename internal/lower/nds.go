package lower

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tulle-mesh/tulle/internal/model"
)

// NameTableType is the type URL of Istio's name table, which a sidecar's DNS
// answers from. Types does not list it: only clients that capture questions
// have use for it.
const NameTableType = "type.googleapis.com/istio.networking.nds.v1.NameTable"

// NameTableName is the name of a client's one name table.
const NameTableName = "names"

// nameInfo is istio.networking.nds.v1.NameTable.NameInfo.
type nameInfo struct {
	addresses []string
	registry  string
	short     string
	namespace string
}

// NameTable is what the services that a client sees are called, and the
// addresses that it is to dial: those of the service, and of headless ones
// those of their ready endpoints, which have names of their own too.
func NameTable(v *model.View) Resource { return JoinNames(Names(v)) }

// JoinNames puts together what Names found in parts of a View.
func JoinNames(parts ...map[string][]byte) Resource {
	all := map[string][]byte{}
	for _, p := range parts {
		maps.Copy(all, p)
	}
	var b []byte
	for _, host := range slices.Sorted(maps.Keys(all)) {
		b = append(b, all[host]...)
	}
	return Resource{Type: NameTableType, Name: NameTableName, Body: b}
}

// Names are the entries of the name table that the clusters of v give, encoded,
// by name; aliases among them where v has the service that they stand for.
func Names(v *model.View) map[string][]byte {
	table := map[string]*nameInfo{}
	for _, c := range v.Clusters {
		s := c.Service
		if s == nil || c.Subset != "" {
			continue
		}
		var list []string
		for _, p := range s.Addresses {
			if p.IsSingleIP() {
				list = append(list, p.Addr().Unmap().String())
			}
		}
		if len(list) == 0 && s.Headless {
			for i := range c.Endpoints {
				e := &c.Endpoints[i]
				if a, err := netip.ParseAddr(e.Address); err == nil && e.Ready {
					list = append(list, a.Unmap().String())
					if _, name, ok := strings.Cut(e.Workload, "/"); ok && s.Kubernetes {
						add(table, name+"."+s.Host, &nameInfo{registry: "Kubernetes", namespace: s.Namespace}, a.Unmap().String())
					}
				}
			}
		}
		if len(list) == 0 {
			continue
		}
		info := &nameInfo{registry: "External"}
		if s.Kubernetes {
			info = &nameInfo{registry: "Kubernetes", short: s.Name, namespace: s.Namespace}
		}
		add(table, s.Host, info, list...)
	}
	for host, of := range v.Aliases {
		if to := table[of]; to != nil {
			name, rest, _ := strings.Cut(host, ".")
			ns, _, _ := strings.Cut(rest, ".")
			add(table, host, &nameInfo{registry: "Kubernetes", short: name, namespace: ns}, to.addresses...)
		}
	}
	out := make(map[string][]byte, len(table))
	for host, info := range table {
		out[host] = protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), entry(host, info))
	}
	return out
}

// add adds addresses to a name, which is made when it is new.
func add(table map[string]*nameInfo, host string, info *nameInfo, list ...string) {
	have := table[host]
	if have == nil {
		have = info
		table[host] = have
	}
	for _, a := range list {
		if !slices.Contains(have.addresses, a) {
			have.addresses = append(have.addresses, a)
		}
	}
	slices.Sort(have.addresses)
}

// entry is one entry of the map in a NameTable.
func entry(host string, n *nameInfo) []byte {
	put := func(b []byte, field protowire.Number, s string) []byte {
		if s == "" {
			return b
		}
		return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
	}
	var v []byte
	for _, a := range n.addresses {
		v = put(v, 1, a)
	}
	v = put(put(put(v, 2, n.registry), 3, n.short), 4, n.namespace)
	b := put(nil, 1, host)
	return protowire.AppendBytes(protowire.AppendTag(b, 2, protowire.BytesType), v)
}
