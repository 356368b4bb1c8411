package generate

// gateways makes Gateway objects on the world's gateway. The hosts of each
// configuration are its own, so that those of many stand at one port.
func (g *gen) gateways() {
	for i := range 1 + g.IntN(2) {
		var servers List
		for _, port := range some(g, 1, g.w.EdgePorts...) {
			hosts := []string{"*." + placeholder + ".example", "*." + placeholder + ".svc.cluster.local"}
			if i > 0 {
				hosts = []string{"*.second." + placeholder + ".example", "./*.other." + placeholder + ".example"}
			}
			servers = append(servers, Obj{
				"port":  Obj{"number": int(port), "name": "http-" + itoa(int(port)), "protocol": one(g, "HTTP", "HTTP", "HTTP2", "GRPC")},
				"hosts": list(hosts),
			})
		}
		selector := Obj{}
		for k, v := range g.w.Edge {
			selector[k] = v
		}
		g.lastGateway = gatewayNames[i]
		g.add("networking.istio.io/v1", "Gateway", gatewayNames[i], Obj{"selector": selector, "servers": servers})
	}
}

var gatewayNames = []string{"edge", "second"}
