package lower

import (
	"encoding/json"
	"strings"

	accesslogpb "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filepb "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/internal/model"
)

// textFormat is Istio's default access log line.
const textFormat = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" ` +
	`%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ` +
	`"%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ` +
	`%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" ` +
	`"%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% ` +
	`%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%` + "\n"

// jsonFormat is the same as JSON, by key.
var jsonFormat = map[string]string{
	"start_time":                        "%START_TIME%",
	"route_name":                        "%ROUTE_NAME%",
	"method":                            "%REQ(:METHOD)%",
	"path":                              "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
	"protocol":                          "%PROTOCOL%",
	"response_code":                     "%RESPONSE_CODE%",
	"response_flags":                    "%RESPONSE_FLAGS%",
	"response_code_details":             "%RESPONSE_CODE_DETAILS%",
	"connection_termination_details":    "%CONNECTION_TERMINATION_DETAILS%",
	"bytes_received":                    "%BYTES_RECEIVED%",
	"bytes_sent":                        "%BYTES_SENT%",
	"duration":                          "%DURATION%",
	"upstream_service_time":             "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
	"x_forwarded_for":                   "%REQ(X-FORWARDED-FOR)%",
	"user_agent":                        "%REQ(USER-AGENT)%",
	"request_id":                        "%REQ(X-REQUEST-ID)%",
	"authority":                         "%REQ(:AUTHORITY)%",
	"upstream_host":                     "%UPSTREAM_HOST%",
	"upstream_cluster":                  "%UPSTREAM_CLUSTER_RAW%",
	"upstream_local_address":            "%UPSTREAM_LOCAL_ADDRESS%",
	"downstream_local_address":          "%DOWNSTREAM_LOCAL_ADDRESS%",
	"downstream_remote_address":         "%DOWNSTREAM_REMOTE_ADDRESS%",
	"requested_server_name":             "%REQUESTED_SERVER_NAME%",
	"upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
}

// accessLog of an HTTP manager or TCP proxy; nil when it is off.
func (l *Lowering) accessLog() []*accesslogpb.AccessLog {
	a := l.v.Settings.AccessLog
	if !a.Enabled {
		return nil
	}
	format := &corepb.SubstitutionFormatString{}
	if a.JSON {
		format.Format = &corepb.SubstitutionFormatString_JsonFormat{JsonFormat: l.logFields(a.Format)}
	} else {
		text := a.Format
		if text == "" {
			text = textFormat
		} else if !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		format.Format = &corepb.SubstitutionFormatString_TextFormatSource{
			TextFormatSource: &corepb.DataSource{Specifier: &corepb.DataSource_InlineString{InlineString: text}}}
	}
	return []*accesslogpb.AccessLog{{
		Name: "envoy.access_loggers.file",
		ConfigType: &accesslogpb.AccessLog_TypedConfig{TypedConfig: pack(&filepb.FileAccessLog{
			Path:            "/dev/stdout",
			AccessLogFormat: &filepb.FileAccessLog_LogFormat{LogFormat: format},
		})},
	}}
}

// listenerLog of a listener that accepts connections: those that no filter chain
// took, and those beyond a limit of connections, which only our proxy logs.
func (l *Lowering) listenerLog() []*accesslogpb.AccessLog {
	out := l.accessLog()
	for _, a := range out {
		a.Filter = &accesslogpb.AccessLogFilter{FilterSpecifier: &accesslogpb.AccessLogFilter_ResponseFlagFilter{
			ResponseFlagFilter: &accesslogpb.ResponseFlagFilter{Flags: []string{"NR", "OM"}}}}
	}
	return out
}

// logFields of a JSON log; the default ones when the user's are not an object.
func (l *Lowering) logFields(format string) *structpb.Struct {
	if format != "" {
		var user map[string]any
		err := json.Unmarshal([]byte(format), &user)
		if err == nil {
			if s, err := structpb.NewStruct(user); err == nil {
				return s
			}
		}
		l.notice(model.Error, model.Invalid, model.Origin{}, "accessLogFormat is not a JSON object; the default one is used")
	}
	s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for k, v := range jsonFormat {
		s.Fields[k] = structpb.NewStringValue(v)
	}
	return s
}
