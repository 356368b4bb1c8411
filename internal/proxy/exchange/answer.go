package exchange

import (
	"strconv"

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
	if x.upgrade {
		x.upgraded(h)
	}
	ms := (x.env.Loop.Now() - x.a.begun) / 1e6
	var b [20]byte
	t := strconv.AppendInt(b[:0], ms, 10)
	h.Set("x-envoy-upstream-service-time", t)
	x.rec.ServiceTime = ms
	x.resp.Status = h.Status
	h.Del(origHeader)
	if x.cookie.Name != "" {
		var b [256]byte
		h.Add("set-cookie", x.cookie.Append(b[:0]))
	}
	x.editResponse(h)
	x.decorate(h)
	x.down.SendHead(h, end)
}

// upgraded translates the acceptance of an upgrade between HTTP/1, where it is
// 101, and HTTP/2, where extended CONNECT is answered with 200 (RFC 8441).
func (x *Exchange) upgraded(h *stream.Head) {
	switch {
	case h.Status == 200 && x.conn.http1():
		if x.a.via != nil && x.a.via.HTTP2 && string(x.req.Method) != "CONNECT" {
			h.Status, h.Reason, h.Protocol, h.Length = 101, nil, x.req.Protocol, -1
		}
	case h.Status == 101 && !x.conn.http1():
		h.Status, h.Protocol, h.Length = 200, nil, -1
	}
}

// editResponse applies the header operations of all levels that were chosen.
func (x *Exchange) editResponse(h *stream.Head) {
	if x.path.Route != nil {
		route.EditResponse(&x.path, h, &x.rq)
	}
	x.corsResponse(h)
}

// decorate adds what a connection manager adds to every response.
func (x *Exchange) decorate(h *stream.Head) {
	name := x.conn.http.ServerName
	if name == "" {
		name = "envoy"
	}
	setString(h, "server", name)
	if !h.Has("date") {
		h.Add("date", x.conn.env.date())
	}
	if x.conn.draining {
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
	x.ended = true
	x.finish() // a codec reads and forgets what is left of the request
}

// cut ends a response in its middle, so that nobody takes it for complete.
func (x *Exchange) cut() {
	if x.down != nil {
		x.down.Reset(stream.ConnectionLost)
	}
	x.finish()
}

// fail answers for the upstream, or cuts the response that has begun.
func (x *Exchange) fail(o telemetry.Outcome, detail string) {
	if x.started {
		x.rec.Flags |= o.Flag
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
		h.AddString("content-type", "application/grpc")
		h.AddString("grpc-status", strconv.Itoa(o.GRPC()))
		if body != "" {
			h.AddString("grpc-message", telemetry.PercentEncode(body))
		}
		x.rec.GRPCStatus = o.GRPC()
		body = ""
	} else {
		h.Status, h.Length = o.Status, int64(len(body))
		if body != "" {
			h.AddString("content-type", "text/plain")
		}
	}
	if o.Overloaded {
		h.AddString("x-envoy-overloaded", "true")
	}
	x.editResponse(h)
	x.sendLocal([]byte(body))
}

// sendLocal sends x.resp with a body as the whole answer.
func (x *Exchange) sendLocal(body []byte) {
	h := &x.resp
	x.started = true
	x.rec.Status = h.Status
	x.rec.ResponseStart = x.env.Loop.Now()
	x.a.release()
	x.decorate(h)
	if x.grpc {
		h.Length = -1
	}
	h.Body = len(body) > 0
	head := string(x.req.Method) == "HEAD"
	x.down.SendHead(h, len(body) == 0 || head)
	if len(body) > 0 && !head {
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
