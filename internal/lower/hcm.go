package lower

import (
	listenerpb "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routepb "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corspb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	routerpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Names of HTTP filters, as routes refer to them.
const (
	faultFilter  = "envoy.filters.http.fault"
	corsFilter   = "envoy.filters.http.cors"
	routerFilter = "envoy.filters.http.router"
)

func httpFilter(name string, m proto.Message) *hcmpb.HttpFilter {
	return &hcmpb.HttpFilter{Name: name, ConfigType: &hcmpb.HttpFilter_TypedConfig{TypedConfig: pack(m)}}
}

func networkFilter(name string, m proto.Message) *listenerpb.Filter {
	return &listenerpb.Filter{Name: name, ConfigType: &listenerpb.Filter_TypedConfig{TypedConfig: pack(m)}}
}

// routeFilters act by route: fault before CORS, as in Istio.
func routeFilters() []*hcmpb.HttpFilter {
	return []*hcmpb.HttpFilter{httpFilter(faultFilter, &faultpb.HTTPFault{}), httpFilter(corsFilter, &corspb.Cors{})}
}

// manager is what all HTTP managers share; filters get the router at the end.
func (l *Lowering) manager(statPrefix string, filters []*hcmpb.HttpFilter) *hcmpb.HttpConnectionManager {
	m := &hcmpb.HttpConnectionManager{
		StatPrefix:                statPrefix,
		CodecType:                 hcmpb.HttpConnectionManager_AUTO,
		HttpFilters:               append(filters, httpFilter(routerFilter, &routerpb.Router{})),
		UpgradeConfigs:            []*hcmpb.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		UseRemoteAddress:          no(),
		PreserveExternalRequestId: true,
		StreamIdleTimeout:         dur(0),
		AccessLog:                 l.accessLog(),
	}
	pathForm(m, l.v.Settings.Paths)
	return m
}

// pathForm brings paths into one form, as MeshConfig.pathNormalization says.
func pathForm(m *hcmpb.HttpConnectionManager, f model.PathForm) {
	if f == model.PathNone {
		return
	}
	m.NormalizePath = yes()
	m.MergeSlashes = f == model.PathMergeSlashes || f == model.PathDecodeAndMerge
	if f == model.PathDecodeAndMerge {
		m.PathWithEscapedSlashesAction = hcmpb.HttpConnectionManager_UNESCAPE_AND_FORWARD
	}
}

func byTable(m *hcmpb.HttpConnectionManager, table string) {
	m.RouteSpecifier = &hcmpb.HttpConnectionManager_Rds{
		Rds: &hcmpb.Rds{ConfigSource: ads(), RouteConfigName: table}}
}

func byRoutes(m *hcmpb.HttpConnectionManager, routes *routepb.RouteConfiguration) {
	m.RouteSpecifier = &hcmpb.HttpConnectionManager_RouteConfig{RouteConfig: routes}
}

// outboundManager serves a route table to the sidecar's own program.
func (l *Lowering) outboundManager(name, table string, connect bool) *listenerpb.Filter {
	m := l.manager("outbound_"+name, routeFilters())
	byTable(m, table)
	if connect {
		m.UpgradeConfigs = append(m.UpgradeConfigs, &hcmpb.HttpConnectionManager_UpgradeConfig{UpgradeType: "CONNECT"})
	}
	return hcmFilter(m)
}

func hcmFilter(m *hcmpb.HttpConnectionManager) *listenerpb.Filter {
	return networkFilter("envoy.filters.network.http_connection_manager", m)
}
