package exchange

import (
	"strconv"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/route"
	"github.com/tulle-mesh/tulle/internal/proxy/stream"
	"github.com/tulle-mesh/tulle/internal/proxy/telemetry"
)

// answer forwards an upstream response head.
func (x *Exchange) answer(h *stream.Head, end bool) {
	x.started = true
	x.rec.Status = h.Status
	x.rec.Details = "via_upstream"
	x.rec.ResponseStart = x.env.Loop.Now()
	if x.grpc {
		x.rec.GRPCStatus = grpcStatus(h)
	}
	if x.tunnel = h.Status == 101 || x.connect && h.Status < 300; x.tunnel && x.upgrade && len(h.Protocol) == 0 {
		h.Protocol = x.req.Protocol
	}
	if !x.reqEnd {
		x.total.Stop() // whoever is answered has not been too slow
	}
	x.rec.ServiceTime = (x.env.Loop.Now() - x.a.begun) / 1e6
	if !x.conn.http.SuppressHeaders {
		var b [20]byte
		h.Set("x-envoy-upstream-service-time", strconv.AppendInt(b[:0], x.rec.ServiceTime, 10))
	}
	if x.cookie.Name != "" {
		var b [256]byte
		h.Add("set-cookie", x.cookie.Append(b[:0]))
	}
	x.editResponse(h)
	x.compress(h, end)
	x.decorate(h, true)
	if len(x.conn.http.AccessLog) > 0 {
		x.resp.CopyFrom(h)
	}
	x.passedOver(h)
	x.down.SendHead(h, end)
}

// editResponse applies the header operations of all levels that were chosen.
func (x *Exchange) editResponse(h *stream.Head) {
	if x.path.Route != nil {
		route.EditResponse(&x.path, h, &x.rq)
	}
	x.corsResponse(h)
	x.tellLimit(h)
}

// decorate adds what a connection manager adds to every response.
func (x *Exchange) decorate(h *stream.Head, upstream bool) {
	mode := x.conn.http.ServerHeader
	if !upstream || mode == conf.ServerOverwrite || mode == conf.ServerAppendIfAbsent && !h.Has("server") {
		name := x.conn.http.ServerName
		if name == "" {
			name = "envoy"
		}
		setString(h, "server", name)
	}
	if !h.Has("date") {
		h.Add("date", x.conn.env.date())
	}
	if x.conn.draining || x.conn.leaves() {
		x.conn.draining = true
		x.conn.drainCodec()
	}
}

func setString(h *stream.Head, name, value string) {
	for i := range h.Fields {
		if f := &h.Fields[i]; string(f.Name) == name && string(f.Value) == value {
			return
		}
	}
	h.Set(name, []byte(value))
}

// responded is called when the last byte of the response was handed down.
func (x *Exchange) responded() {
	x.finish() // a codec reads and forgets what is left of the request
}

// cut ends a response in its middle, so that nobody takes it for complete.
func (x *Exchange) cut() {
	x.down.Reset(stream.ConnectionLost)
	x.finish()
}

// fail answers for the upstream, or cuts the response that has begun.
func (x *Exchange) fail(o telemetry.Outcome, detail string) {
	o.Retried = x.retries.made > 0
	if x.started {
		x.rec.Flags |= o.Flag
		x.rec.Details = o.Detail(detail)
		x.cut()
		return
	}
	x.reply(o, detail)
}

// reply answers with an error of our own: status, response flag, and a body
// that says why. gRPC clients get it as grpc-status and grpc-message.
func (x *Exchange) reply(o telemetry.Outcome, detail string) {
	x.rec.Flags |= o.Flag
	x.rec.Details = o.Detail(detail)
	body := o.Text(detail)
	h := &x.resp
	if x.grpc {
		h.Status, h.Length = 200, -1
		h.AddString("grpc-status", strconv.Itoa(o.GRPC()))
		if body != "" {
			h.AddString("grpc-message", telemetry.PercentEncode(body))
		}
		x.rec.GRPCStatus = o.GRPC()
		body = ""
	} else {
		h.Status, h.Length = o.Status, int64(len(body))
	}
	if o.Overloaded && !x.conn.http.SuppressHeaders {
		h.AddString("x-envoy-overloaded", "true")
	}
	x.editResponse(h)
	x.sendLocal([]byte(body))
}

// sendLocal sends x.resp with a body as the whole answer. A body whose type the
// route does not name is text; without a body there is no type.
func (x *Exchange) sendLocal(body []byte) {
	h := &x.resp
	x.started = true
	x.rec.Status = h.Status
	x.rec.ResponseStart = x.env.Loop.Now()
	x.a.release()
	x.decorate(h, false)
	switch {
	case x.grpc:
		h.Length = -1
		setString(h, "content-type", "application/grpc")
	case len(body) == 0:
		h.Del("content-type")
	case !h.Has("content-type"):
		h.AddString("content-type", "text/plain")
	}
	h.Body = len(body) > 0
	empty := len(body) == 0 || x.head
	x.compress(h, empty)
	x.passedOver(h)
	x.down.SendHead(h, empty)
	if x.squeeze != nil {
		x.squeeze.data(body, true)
		return
	}
	if !empty {
		x.rec.BytesSent += uint64(len(body))
		x.down.SendData(body, true)
	}
	x.responded()
}

func underscored(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c == ' ' {
			b[i] = '_'
		}
	}
	return string(b)
}

// grpcStatus reads grpc-status, -1 when there is none.
func grpcStatus(h *stream.Head) int {
	v := h.Get("grpc-status")
	if v == nil {
		return -1
	}
	n := 0
	for _, c := range v {
		if c < '0' || c > '9' || n > 1000 {
			return 2
		}
		n = n*10 + int(c-'0')
	}
	return n
}
