package main

// envoyIstio is a stock Envoy with what Istio configures: the policy in an RBAC
// filter, the filters that Istio always has, metrics with Istio's labels, no
// access log. Istio's own Envoy has a stats filter that a stock one lacks; the
// stats access logger takes its place: two counters and three histograms per
// request with the labels that Istio's have.
var envoyIstio = &contender{
	name: "envoy-istio", columns: []string{filters},
	needs: envoyPlain.needs,
	start: startEnvoy,
}

// istioFilters stand before the router.
func istioFilters(e *envoyConf) []obj {
	var out []obj
	if e.inbound {
		out = append(out, obj{"name": "envoy.filters.http.rbac", "typed_config": obj{
			"@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
			"rules": obj{"action": "ALLOW", "policies": istioPolicies()}, "shadow_rules_stat_prefix": "istio_dry_run_allow_"}})
	}
	for _, n := range []string{"grpc_stats.v3.FilterConfig", "fault.v3.HTTPFault", "cors.v3.Cors"} {
		out = append(out, obj{"name": n, "typed_config": obj{"@type": "type.googleapis.com/envoy.extensions.filters.http." + n}})
	}
	return out
}

func istioPolicies() obj {
	out := obj{}
	for i, r := range rules() {
		var methods []obj
		for _, m := range r.methods {
			methods = append(methods, obj{"header": obj{"name": ":method", "string_match": obj{"exact": m}}})
		}
		all := []obj{{"or_rules": obj{"rules": methods}},
			{"or_rules": obj{"rules": []obj{{"url_path": obj{"path": obj{"prefix": r.prefix}}}}}}}
		who := obj{"and_ids": obj{"ids": []obj{{"any": true}}}}
		if r.header != "" {
			who = obj{"and_ids": obj{"ids": []obj{{"or_ids": obj{"ids": []obj{{"header": obj{"name": r.header, "string_match": obj{"exact": r.value}}}}}}}}}
		}
		out["ns[bench]-policy[bench]-rule["+string(rune('0'+i))+"]"] = obj{
			"permissions": []obj{{"and_rules": obj{"rules": all}}}, "principals": []obj{who}}
	}
	return out
}

// istioMetrics are istio_requests_total, its bytes and its duration, labelled.
func istioMetrics(e *envoyConf) obj {
	reporter := "source"
	if e.inbound {
		reporter = "destination"
	}
	security := "unknown"
	if e.server {
		security = "mutual_tls"
	}
	tags := []obj{}
	for _, t := range [][2]string{
		{"reporter", reporter},
		{"source_workload", "client"}, {"source_canonical_service", "client"}, {"source_canonical_revision", "latest"},
		{"source_workload_namespace", "bench"}, {"source_principal", "%DOWNSTREAM_PEER_URI_SAN%"}, {"source_app", "client"},
		{"source_version", "v1"}, {"source_cluster", "Kubernetes"},
		{"destination_workload", "backend"}, {"destination_workload_namespace", "bench"}, {"destination_principal", "%DOWNSTREAM_LOCAL_URI_SAN%"},
		{"destination_app", "backend"}, {"destination_version", "v1"}, {"destination_service", "%REQ(:AUTHORITY)%"},
		{"destination_canonical_service", "backend"}, {"destination_canonical_revision", "latest"},
		{"destination_service_name", "%UPSTREAM_CLUSTER%"}, {"destination_service_namespace", "bench"}, {"destination_cluster", "Kubernetes"},
		{"request_protocol", "%PROTOCOL%"}, {"response_code", "%RESPONSE_CODE%"}, {"grpc_response_status", "%GRPC_STATUS_NUMBER%"},
		{"response_flags", "%RESPONSE_FLAGS%"}, {"connection_security_policy", security},
	} {
		tags = append(tags, obj{"name": t[0], "value_format": t[1]})
	}
	stat := func(name string) obj { return obj{"name": name, "tags": tags} }
	return obj{"name": "stats", "typed_config": obj{
		"@type":       "type.googleapis.com/envoy.extensions.access_loggers.stats.v3.Config",
		"stat_prefix": "istio",
		"counters":    []obj{{"stat": stat("requests_total"), "value_fixed": 1}},
		"histograms": []obj{
			{"stat": stat("request_duration_milliseconds"), "unit": "Milliseconds", "value_format": "%DURATION%"},
			{"stat": stat("request_bytes"), "unit": "Bytes", "value_format": "%BYTES_RECEIVED%"},
			{"stat": stat("response_bytes"), "unit": "Bytes", "value_format": "%BYTES_SENT%"},
		},
	}}
}
