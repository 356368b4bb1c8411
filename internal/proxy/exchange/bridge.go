package exchange

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// The bridge: HTTP/1 requests between two of our proxies travel as HTTP/2
// streams on a connection whose peer chose ALPN "tulle1". Each is marked with
//
//	tulle-orig: 1.0|1.1[;METHOD]
//
// (METHOD with an upgrade, which travels as CONNECT), and so is the answer of a
// program that does not care for the upgrade: a 2xx would accept the CONNECT
// (RFC 8441 5), so it travels as 501 with the status in tulle-orig. On every authenticated
// tulle1 connection a sidecar also says what it is the sidecar of, for the
// labels of telemetry:
//
//	tulle-peer: name;namespace;canonical;revision;cluster
//
// Both are honoured there only, never sent elsewhere, and stripped from every
// request before a route is looked at. What the two ends keep, one test per row (test/wire/bridge_test.go,
// the last three in flow_test.go, bulk_test.go and limits_test.go):
//
//	what                    sender                        receiver
//	version                 tulle-orig: 1.0 or 1.1        the head's version again; app sees HTTP/1.1
//	Upgrade: x              CONNECT, :protocol x, METHOD  METHOD with Upgrade: x; 101 becomes 200 and back
//	Upgrade passed over     tulle-orig: 2xx is status     2xx becomes 501, tulle-orig
//	100, 103, Expect        1xx heads as they come        the same
//	HEAD, 204, 304          no DATA                       no body, length kept
//	chunked, close-ended    DATA, END_STREAM              chunked, or close for 1.0
//	truncated body          RST_STREAM                    connection cut, never a clean end
//	trailers                HEADERS at the end            chunked trailers
//	hop-by-hop fields       removed by the codec          removed by the codec
//	abort of either side    RST_STREAM CANCEL             request reset
//	early response          END_STREAM, RST NO_ERROR      answer kept, connection closed after it
//	a slow reader           credit as it drains           the program's connection is read no further
//	large bodies            apart from small requests     the same connection
//	limits                  a virtual connection each     none
const (
	origHeader = "tulle-orig"
	peerHeader = "tulle-peer"
)

// maxWorkload bounds what a peer may say of itself, in bytes.
const maxWorkload = 512

// toBridge adds what a peer of ours is told: the mark of a request that leaves
// as a stream of a tulle1 connection, and our own workload; empty: nothing.
func toBridge(h *stream.Head, mark bool, workload string) {
	if workload != "" {
		h.AddString(peerHeader, workload)
	}
	if !mark {
		return
	}
	v := "1.1"
	if h.Version == 10 {
		v = "1.0"
	}
	if len(h.Protocol) > 0 {
		v += ";" + string(h.Method)
	}
	h.AddString(origHeader, v)
}

// fromBridge restores what a peer's toBridge wrote. A request that carries no
// mark is plain HTTP/2. The fields themselves are stripped with all that are ours.
func (c *Conn) fromBridge(h *stream.Head) {
	if w := h.Get(peerHeader); string(w) != c.peer.workload {
		c.learn(w)
	}
	version, method, _ := bytes.Cut(h.Get(origHeader), []byte(";"))
	switch string(version) {
	case "1.0":
		h.Version = 10
	case "1.1":
		h.Version = 11
	default:
		return
	}
	if len(method) > 0 && len(h.Protocol) > 0 {
		h.Method = method
	}
}

// passedOver marks the answer to an upgrade that was answered as if it had not
// been asked for; see above.
func (x *Exchange) passedOver(h *stream.Head) {
	if !x.upgrade || !x.conn.bridge || x.req.Version == 20 {
		return
	}
	h.Del(origHeader)
	if h.Status >= 200 && h.Status < 300 {
		var b [3]byte
		h.Add(origHeader, strconv.AppendInt(b[:0], int64(h.Status), 10))
		h.Status = 501
	}
}

// asAnswered restores what a peer's passedOver changed.
func asAnswered(h *stream.Head) {
	v := h.Get(origHeader)
	if n, err := strconv.Atoi(string(v)); err == nil && h.Status == 501 && n >= 200 && n < 300 {
		h.Status = n
	}
	h.Del(origHeader)
}

// learn takes up what the peer says it is, unless its certificate says that it
// lives elsewhere.
func (c *Conn) learn(w []byte) {
	c.peer.workload = ""
	if len(w) == 0 || len(w) > maxWorkload {
		return
	}
	said := string(w)
	parts := strings.SplitN(said, ";", 3)
	id, err := identity.Parse(c.peer.Principal)
	if err != nil || len(parts) < 3 || parts[1] != id.Namespace {
		return
	}
	c.peer.workload = said
}
