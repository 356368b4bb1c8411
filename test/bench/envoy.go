package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strconv"

	envoytest "github.com/tulle-mesh/tulle/test/envoy"
)

// envoyPlain is a stock Envoy, a worker per loop of ours, which routes and
// nothing else.
var envoyPlain = &contender{
	name: "envoy", columns: []string{equal},
	needs:  []need{{"python3", "python3"}, {"pip3", "python3-pip"}},
	fronts: []front{plain, muxed, paired, ending, stream, fed},
	start:  startEnvoy,
}

// obj is a message of Envoy's API in JSON.
type obj = map[string]any

func startEnvoy(ctx context.Context, p *plan) (*running, error) {
	binary, err := envoytest.Install(ctx)
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	r := &running{addr: addr}
	if p.front != paired {
		e := &envoyConf{plan: p, addr: addr, to: []string{p.upstream()}, inbound: true, outbound: true}
		if p.front == fed {
			if e.ads, err = r.feed("bench"); err != nil {
				return r, err
			}
		}
		return r, r.envoy(ctx, p, "envoy", binary, e)
	}
	r.client = p.pki.client
	inner, err := p.inners()
	if err != nil {
		return nil, err
	}
	r.inner = inner[0]
	for i, at := range inner {
		e := &envoyConf{plan: p, addr: at, to: []string{p.upstream()}, inbound: true, server: true}
		if err := r.envoy(ctx, p, fmt.Sprintf("in%d", i), binary, e); err != nil {
			return r, err
		}
	}
	return r, r.envoy(ctx, p, "out", binary, &envoyConf{plan: p, addr: addr, to: inner, outbound: true, client: true})
}

// envoyConf says what one Envoy is.
type envoyConf struct {
	*plan
	addr              string
	to                []string
	ads               string // unix socket of a control plane; empty: none
	inbound, outbound bool   // where policy is asked, where routes change headers
	server, client    bool   // of mutual TLS
}

func (e *envoyConf) bootstrap() obj {
	listener := obj{"name": "front", "address": envoyAddress(e.addr), "filter_chains": []obj{e.chain()}}
	var endpoints []obj
	for _, t := range e.to {
		endpoints = append(endpoints, obj{"endpoint": obj{"address": envoyAddress(t)}})
	}
	cluster := obj{"name": "b", "type": "STATIC", "connect_timeout": "5s",
		"circuit_breakers": obj{"thresholds": []obj{{"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000, "max_retries": 100}}},
		"load_assignment":  obj{"cluster_name": "b", "endpoints": []obj{{"lb_endpoints": endpoints}}}}
	if e.front == muxed {
		cluster["typed_extension_protocol_options"] = envoyHTTP2
	}
	if e.client {
		cluster["transport_socket"] = envoyTLS("UpstreamTlsContext", e.pki.client, obj{"sni": pairName}, e.trust())
	}
	out := obj{
		"node":             obj{"id": "bench", "cluster": "bench"},
		"static_resources": obj{"listeners": []obj{listener}, "clusters": []obj{cluster}},
		"layered_runtime":  obj{"layers": []obj{{"name": "s", "static_layer": obj{"overload": obj{"global_downstream_max_connections": 50000}}}}},
	}
	if e.ads != "" {
		ads := obj{"name": "ads", "type": "STATIC", "typed_extension_protocol_options": envoyHTTP2,
			"load_assignment": obj{"cluster_name": "ads", "endpoints": []obj{{"lb_endpoints": []obj{{"endpoint": obj{"address": obj{"pipe": obj{"path": e.ads}}}}}}}}}
		out["static_resources"] = obj{"listeners": []obj{listener}, "clusters": []obj{cluster, ads}}
		out["dynamic_resources"] = obj{"cds_config": obj{"ads": obj{}, "resource_api_version": "V3"},
			"ads_config": obj{"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": []obj{{"envoy_grpc": obj{"cluster_name": "ads"}}}}}
	}
	return out
}

// envoyHTTP2 are options of a cluster that speaks HTTP/2.
var envoyHTTP2 = obj{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": obj{
	"@type":                "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
	"explicit_http_config": obj{"http2_protocol_options": obj{}}}}

func (e *envoyConf) chain() obj {
	if e.front == stream {
		return obj{"filters": []obj{{"name": "tcp", "typed_config": obj{
			"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "tcp", "cluster": "b"}}}}
	}
	hcm := obj{
		"@type":       "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
		"stat_prefix": "front", "codec_type": "AUTO", "route_config": e.routes(), "http_filters": e.filterChain(),
		"preserve_external_request_id": true, "normalize_path": true,
		"use_remote_address": e.front != paired,
	}
	if e.server {
		hcm["forward_client_cert_details"] = "APPEND_FORWARD"
		hcm["set_current_client_cert_details"] = obj{"subject": true, "uri": true}
	}
	if e.filters {
		hcm["access_log"] = []obj{istioMetrics(e)}
	}
	c := obj{"filters": []obj{{"name": "http", "typed_config": hcm}}}
	switch {
	case e.server:
		c["transport_socket"] = envoyTLS("DownstreamTlsContext", e.pki.server, obj{"require_client_certificate": true}, e.trust())
	case e.front == ending:
		c["transport_socket"] = envoyTLS("DownstreamTlsContext", e.pki.gateway, nil, obj{"alpn_protocols": []string{"http/1.1"}})
	}
	return c
}

func (e *envoyConf) filterChain() []obj {
	router := obj{"name": "router", "typed_config": obj{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}
	if !e.filters {
		return []obj{router}
	}
	return append(istioFilters(e), router)
}

// routes is the route table. An inbound sidecar has one route, as Istio's.
func (e *envoyConf) routes() obj {
	if !e.outbound {
		return obj{"virtual_hosts": []obj{{"name": "in", "domains": []string{"*"}, "routes": []obj{{"match": obj{"prefix": "/"}, "route": obj{"cluster": "b"}}}}}}
	}
	var hosts []obj
	for h := range hostCount {
		var routes []obj
		for _, prefix := range prefixesOf(hostName(h)) {
			row := obj{"match": obj{"prefix": prefix}, "route": obj{"cluster": "b", "timeout": "0s"}}
			if e.filters {
				row["request_headers_to_add"] = []obj{{"header": obj{"key": setOnRequest[0], "value": setOnRequest[1]}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
				row["request_headers_to_remove"] = []string{removeOnRequest}
				row["response_headers_to_add"] = []obj{{"header": obj{"key": setOnResponse[0], "value": setOnResponse[1]}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}
				row["response_headers_to_remove"] = []string{removeOnResponse}
			}
			routes = append(routes, row)
		}
		hosts = append(hosts, obj{"name": hostName(h), "domains": []string{hostName(h), hostName(h) + ":*"}, "routes": routes})
	}
	return obj{"virtual_hosts": hosts}
}

func (e *envoyConf) trust() obj {
	return obj{"validation_context": obj{"trusted_ca": obj{"filename": e.pki.ca},
		"match_typed_subject_alt_names": []obj{{"san_type": "URI", "matcher": obj{"prefix": trustDomain}}}}}
}

func envoyTLS(kind string, c certificate, outer, more obj) obj {
	common := obj{"tls_params": obj{"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
		"tls_certificates": []obj{{"certificate_chain": obj{"filename": c.cert}, "private_key": obj{"filename": c.key}}}}
	for k, v := range more {
		common[k] = v
	}
	ctx := obj{"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3." + kind, "common_tls_context": common}
	for k, v := range outer {
		ctx[k] = v
	}
	return obj{"name": "tls", "typed_config": ctx}
}

func envoyAddress(addr string) obj {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		panic("BUG: address " + addr)
	}
	n, _ := strconv.Atoi(port)
	return obj{"socket_address": obj{"address": host, "port_value": n}}
}

// envoy runs one and waits for its address.
func (r *running) envoy(ctx context.Context, p *plan, name, binary string, e *envoyConf) error {
	text, err := json.MarshalIndent(e.bootstrap(), "", " ")
	if err != nil {
		return err
	}
	file, err := p.write(name+".json", string(text))
	if err != nil {
		return err
	}
	j, err := spawn(p.dir, name, p.cpus(), binary, "-c", file, "--concurrency", strconv.Itoa(p.loops()), "--disable-hot-restart", "-l", "warning")
	if err != nil {
		return err
	}
	r.jobs = append(r.jobs, j)
	if err := j.listening(ctx, e.addr); err != nil {
		return err
	}
	pids := family(j.pid(), "envoy")
	if len(pids) != 1 {
		return fmt.Errorf("want one envoy, found %d", len(pids))
	}
	r.pids = append(r.pids, pids...)
	return nil
}
