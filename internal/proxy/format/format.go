// Package format takes Envoy's %COMMAND% format strings apart.
//
// In: a format string of a header value or of an access log. Out: its parts,
// literal text and commands, or an error for a command that Tulle does not
// know. Next walks a string without allocating; Parse keeps the parts.
//
// What does not belong here: the values behind the commands; route has them
// for headers, telemetry for logs.
package format

import (
	"fmt"
	"strconv"
	"strings"
)

// Command of a format string, named as Envoy spells it.
type Command uint8

// The commands. Text is literal text.
const (
	Text Command = iota
	Req
	Resp
	Trailer
	StartTime
	Protocol
	ResponseCode
	ResponseFlags
	ResponseFlagsLong
	ResponseCodeDetails
	ConnectionTermination
	UpstreamFailure
	BytesReceived
	BytesSent
	Duration
	RequestDuration
	ResponseDuration
	ResponseTxDuration
	UpstreamHost
	UpstreamCluster
	UpstreamClusterRaw
	UpstreamLocal
	UpstreamLocalIP
	UpstreamLocalPort
	UpstreamRemote
	UpstreamRemoteIP
	UpstreamRemotePort
	AttemptCount
	DownstreamLocal
	DownstreamLocalIP
	DownstreamLocalPort
	DownstreamRemote
	DownstreamRemoteIP
	DownstreamRemotePort
	DownstreamDirect
	DownstreamDirectIP
	DownstreamDirectPort
	ServerName
	RouteName
	PeerURISAN
	LocalURISAN
	TLSVersion
	TLSCipher
	Hostname
	commands // how many
)

var names = map[string]Command{
	"REQ": Req, "RESP": Resp, "TRAILER": Trailer,
	"START_TIME": StartTime, "PROTOCOL": Protocol,
	"RESPONSE_CODE": ResponseCode, "RESPONSE_FLAGS": ResponseFlags, "RESPONSE_FLAGS_LONG": ResponseFlagsLong,
	"RESPONSE_CODE_DETAILS": ResponseCodeDetails, "CONNECTION_TERMINATION_DETAILS": ConnectionTermination,
	"UPSTREAM_TRANSPORT_FAILURE_REASON": UpstreamFailure,
	"BYTES_RECEIVED":                    BytesReceived, "BYTES_SENT": BytesSent,
	"DURATION": Duration, "REQUEST_DURATION": RequestDuration,
	"RESPONSE_DURATION": ResponseDuration, "RESPONSE_TX_DURATION": ResponseTxDuration,
	"UPSTREAM_HOST": UpstreamHost, "UPSTREAM_CLUSTER": UpstreamCluster, "UPSTREAM_CLUSTER_RAW": UpstreamClusterRaw,
	"UPSTREAM_LOCAL_ADDRESS": UpstreamLocal, "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": UpstreamLocalIP,
	"UPSTREAM_LOCAL_PORT":     UpstreamLocalPort,
	"UPSTREAM_REMOTE_ADDRESS": UpstreamRemote, "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": UpstreamRemoteIP,
	"UPSTREAM_REMOTE_PORT":           UpstreamRemotePort,
	"UPSTREAM_REQUEST_ATTEMPT_COUNT": AttemptCount,
	"DOWNSTREAM_LOCAL_ADDRESS":       DownstreamLocal, "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": DownstreamLocalIP,
	"DOWNSTREAM_LOCAL_PORT":     DownstreamLocalPort,
	"DOWNSTREAM_REMOTE_ADDRESS": DownstreamRemote, "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": DownstreamRemoteIP,
	"DOWNSTREAM_REMOTE_PORT":           DownstreamRemotePort,
	"DOWNSTREAM_DIRECT_REMOTE_ADDRESS": DownstreamDirect, "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT": DownstreamDirectIP,
	"DOWNSTREAM_DIRECT_REMOTE_PORT": DownstreamDirectPort,
	"REQUESTED_SERVER_NAME":         ServerName, "ROUTE_NAME": RouteName,
	"DOWNSTREAM_PEER_URI_SAN": PeerURISAN, "DOWNSTREAM_LOCAL_URI_SAN": LocalURISAN,
	"DOWNSTREAM_TLS_VERSION": TLSVersion, "DOWNSTREAM_TLS_CIPHER": TLSCipher,
	"HOSTNAME": Hostname,
}

// Part of a format: literal Text, or a command with its arguments.
type Part struct {
	Cmd Command
	// Text is the literal, or the command's argument: for Req, Resp and
	// Trailer the header's name, for StartTime the strftime form.
	Text string
	Alt  string // header to use when the first is absent
	Max  int    // longest value in bytes; 0: no limit
}

// Next returns the first part of s and what follows it. "%%" is a literal
// percent sign, header names are as written. s must not be empty.
func Next(s string) (p Part, rest string, err error) {
	if s[0] != '%' {
		if i := strings.IndexByte(s, '%'); i > 0 {
			return Part{Text: s[:i]}, s[i:], nil
		}
		return Part{Text: s}, "", nil
	}
	if strings.HasPrefix(s, "%%") {
		return Part{Text: "%"}, s[2:], nil
	}
	body := s[1:]
	end := strings.IndexAny(body, "%(")
	if end < 0 {
		return Part{}, "", fmt.Errorf("format %q: command without closing %%", s)
	}
	name, arg := body[:end], ""
	if body[end] == '(' {
		shut := end + strings.IndexByte(body[end:], ')')
		if shut < end {
			return Part{}, "", fmt.Errorf("format %q: argument without closing parenthesis", s)
		}
		arg, body = body[end+1:shut], body[shut+1:]
	} else {
		if i := strings.IndexByte(name, ':'); i >= 0 {
			body, name = body[i:], name[:i]
		} else {
			body = body[end:]
		}
	}
	if strings.HasPrefix(body, ":") {
		i := strings.IndexByte(body, '%')
		if i < 0 {
			return Part{}, "", fmt.Errorf("format %q: command without closing %%", s)
		}
		if p.Max, err = strconv.Atoi(body[1:i]); err != nil || p.Max <= 0 {
			return Part{}, "", fmt.Errorf("format %q: length %q is no positive number", s, body[1:i])
		}
		body = body[i:]
	}
	if !strings.HasPrefix(body, "%") {
		return Part{}, "", fmt.Errorf("format %q: command without closing %%", s)
	}
	cmd, ok := names[name]
	if !ok {
		return Part{}, "", fmt.Errorf("format command %%%s%% is not known", name)
	}
	p.Cmd, p.Text = cmd, arg
	switch cmd {
	case Req, Resp, Trailer:
		p.Text, p.Alt, _ = strings.Cut(arg, "?")
		if p.Text == "" {
			return Part{}, "", fmt.Errorf("format command %%%s%% needs a header name", name)
		}
	case StartTime:
	default:
		if arg != "" {
			return Part{}, "", fmt.Errorf("format command %%%s%% takes no argument", name)
		}
	}
	return p, body[1:], nil
}

// Parse returns all parts of s, header names in lower case.
func Parse(s string) ([]Part, error) {
	var parts []Part
	for s != "" {
		p, rest, err := Next(s)
		if err != nil {
			return nil, err
		}
		if p.Cmd == Req || p.Cmd == Resp || p.Cmd == Trailer {
			p.Text, p.Alt = strings.ToLower(p.Text), strings.ToLower(p.Alt)
		}
		if n := len(parts); p.Cmd == Text && n > 0 && parts[n-1].Cmd == Text {
			parts[n-1].Text += p.Text
		} else {
			parts = append(parts, p)
		}
		s = rest
	}
	return parts, nil
}
