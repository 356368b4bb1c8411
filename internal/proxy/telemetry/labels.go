package telemetry

import (
	"strconv"
	"unicode/utf8"
)

// appendLabels renders a record's labels in Istio's order. What is not known
// says unknown.
func appendLabels(dst []byte, r *Record) []byte {
	src, dest, mutual := sides(r)
	reporter := "source"
	if r.Inbound {
		reporter = "destination"
	}
	dst = label(dst, "reporter", reporter)
	dst = label(dst, "source_workload", src.Name)
	dst = label(dst, "source_canonical_service", src.Canonical)
	dst = label(dst, "source_canonical_revision", src.Revision)
	dst = label(dst, "source_workload_namespace", src.Namespace)
	dst = label(dst, "source_principal", src.Principal)
	dst = label(dst, "source_app", src.App)
	dst = label(dst, "source_version", src.Version)
	dst = label(dst, "source_cluster", src.Cluster)
	dst = label(dst, "destination_workload", dest.Name)
	dst = label(dst, "destination_workload_namespace", dest.Namespace)
	dst = label(dst, "destination_principal", dest.Principal)
	dst = label(dst, "destination_app", dest.App)
	dst = label(dst, "destination_version", dest.Version)
	dst = label(dst, "destination_service", r.Service)
	dst = label(dst, "destination_canonical_service", dest.Canonical)
	dst = label(dst, "destination_canonical_revision", dest.Revision)
	dst = label(dst, "destination_service_name", r.ServiceName)
	dst = label(dst, "destination_service_namespace", r.ServiceSpace)
	dst = label(dst, "destination_cluster", dest.Cluster)
	protocol := "http"
	switch {
	case r.TCP:
		protocol = "tcp"
	case r.GRPC:
		protocol = "grpc"
	}
	dst = label(dst, "request_protocol", protocol)
	if !r.TCP {
		dst = label(dst, "response_code", strconv.Itoa(r.Status))
		grpc := ""
		if r.GRPC && r.GRPCStatus >= 0 {
			grpc = strconv.Itoa(r.GRPCStatus)
		}
		dst = append(append(append(dst, `,grpc_response_status="`...), grpc...), '"')
	}
	dst = label(dst, "response_flags", r.Flags.String())
	security := "unknown"
	if r.Inbound {
		if security = "none"; mutual {
			security = "mutual_tls"
		}
	}
	return label(dst, "connection_security_policy", security)
}

// sides are caller and called, from the point of view of the reporter.
func sides(r *Record) (src, dest Workload, mutual bool) {
	var local Workload
	if r.Local != nil {
		local = *r.Local
	}
	own := r.LocalPrincipal
	if own == "" {
		own = local.Principal
	}
	if r.Inbound {
		src, dest, mutual = ParseWorkload(r.PeerWorkload), local, r.Mutual
		src.Principal, dest.Principal = "", ""
		if mutual {
			src.Principal, dest.Principal = r.Peer, own
		}
		if src.Namespace == "" {
			src.Namespace = namespaceOf(src.Principal)
		}
	} else {
		src, dest, mutual = local, ParseWorkload(r.UpstreamWorkload), r.UpstreamPeer != ""
		src.Principal, dest.Principal = "", ""
		if mutual {
			src.Principal, dest.Principal = own, r.UpstreamPeer
		}
		if dest.Namespace == "" {
			dest.Namespace = namespaceOf(dest.Principal)
		}
	}
	return src, dest, mutual
}

// label appends name="value" with a comma where it is not the first.
func label(dst []byte, name, value string) []byte {
	if len(dst) > 0 {
		dst = append(dst, ',')
	}
	dst = append(append(dst, name...), '=', '"')
	if value == "" {
		value = "unknown"
	}
	return append(escape(dst, value), '"')
}

// Escape is a label's value as Prometheus' text has it.
func Escape(s string) string { return string(escape(nil, s)) }

// escape writes a label value: backslash, quote and newline escaped, bytes that
// are not UTF-8 replaced.
func escape(dst []byte, s string) []byte {
	for _, c := range s {
		switch c {
		case '\\', '"':
			dst = append(dst, '\\', byte(c))
		case '\n':
			dst = append(dst, '\\', 'n')
		default:
			dst = utf8.AppendRune(dst, c)
		}
	}
	return dst
}
