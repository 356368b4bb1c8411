package exchange

import (
	"bytes"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// The bridge: HTTP/1 requests between two of our proxies travel as HTTP/2
// streams on a connection whose peer chose ALPN "tulle1". Each is marked with
//
//	tulle-orig: 1.0|1.1[;upgrade]
//
// which is honoured only on an authenticated tulle1 connection and stripped
// everywhere else. What the two ends keep, one test per row (bridge_test.go):
//
//	what                    sender                        receiver
//	version                 tulle-orig: 1.0 or 1.1        the head's version again; app sees HTTP/1.1
//	Upgrade: x              CONNECT, :protocol x, upgrade GET with Upgrade: x; 101 becomes 200 and back
//	100, 103, Expect        1xx heads as they come        the same
//	HEAD, 204, 304          no DATA                       no body, length kept
//	chunked, close-ended    DATA, END_STREAM              chunked, or close for 1.0
//	truncated body          RST_STREAM                    connection cut, never a clean end
//	trailers                HEADERS at the end            chunked trailers
//	hop-by-hop fields       removed by the codec          removed by the codec
//	abort of either side    RST_STREAM CANCEL             request reset
//	early response          END_STREAM, RST NO_ERROR      answer kept, connection closed after it
const origHeader = "tulle-orig"

// toBridge marks a request that leaves as a stream of a tulle1 connection.
func toBridge(h *stream.Head) {
	v := "1.1"
	if h.Version == 10 {
		v = "1.0"
	}
	if len(h.Protocol) > 0 && string(h.Method) != "CONNECT" {
		v += ";upgrade"
		h.Method = []byte("CONNECT")
	}
	h.AddString(origHeader, v)
}

// fromBridge restores what a peer's toBridge wrote. It reports false when the
// request carries no mark and is plain HTTP/2.
func fromBridge(h *stream.Head) bool {
	v := h.Get(origHeader)
	if v == nil {
		return false
	}
	version, opt, _ := bytes.Cut(v, []byte(";"))
	switch string(version) {
	case "1.0":
		h.Version = 10
	case "1.1":
		h.Version = 11
	default:
		return false
	}
	if string(opt) == "upgrade" && len(h.Protocol) > 0 {
		h.Method = []byte("GET")
	}
	h.Del(origHeader)
	return true
}
