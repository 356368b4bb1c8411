// Package redirect captures the traffic of a network namespace: a Plan says
// what is to be caught, pure and printable, and Apply makes it so with nftables.
//
// In: ports of the proxy, what to leave alone. Out: rules in the kernel, in a
// table of their own, put there and taken away as a whole; the same rules in
// iptables' words, under the names of Istio's chains. No external program is
// needed; where the kernel has no nftables, iptables' own are asked. What does not belong here: who serves the ports (proxy), what
// namespaces there are (proxy/agent, kube).
package redirect
