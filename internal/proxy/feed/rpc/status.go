package rpc

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// ErrUnreachable is wrapped by the errors of Open and Call when no connection
// could be made.
var ErrUnreachable = errors.New("cannot be reached")

// Code is a gRPC status code.
type Code uint32

// Codes that are told apart here.
const (
	Canceled         Code = 1
	Unknown          Code = 2
	PermissionDenied Code = 7
	Exhausted        Code = 8
	Unimplemented    Code = 12
	Internal         Code = 13
	Unavailable      Code = 14
	Unauthenticated  Code = 16
)

var codeNames = [...]string{"OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists",
	"PermissionDenied", "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal",
	"Unavailable", "DataLoss", "Unauthenticated"}

func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "code " + strconv.FormatUint(uint64(c), 10)
}

// Status is how the other side, or the connection, ended a call.
type Status struct {
	Code    Code
	Message string
}

func (s *Status) Error() string {
	if s.Message == "" {
		return s.Code.String()
	}
	return s.Code.String() + ": " + s.Message
}

// maxText bounds messages of the other side, in bytes.
const maxText = 4 << 10

// statusOf reads grpc-status and grpc-message; nil, true is OK, false that
// there is none.
func statusOf(h *stream.Head) (*Status, bool) {
	v := h.Get("grpc-status")
	if v == nil {
		return nil, false
	}
	n, err := strconv.ParseUint(string(v), 10, 32)
	switch {
	case err != nil:
		return &Status{Unknown, "malformed grpc-status"}, true
	case n == 0:
		return nil, true
	}
	return &Status{Code(n), decodeMessage(h.Get("grpc-message"))}, true
}

// decodeMessage undoes percent-encoding, and what is no text.
func decodeMessage(v []byte) string {
	var b strings.Builder
	for i := 0; i < len(v) && b.Len() < maxText; i++ {
		if v[i] == '%' && i+2 < len(v) {
			if n, err := strconv.ParseUint(string(v[i+1:i+3]), 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(v[i])
	}
	return strings.ToValidUTF8(b.String(), "?")
}

// checkHead reports what a response head says that is not gRPC; nil: nothing.
func checkHead(h *stream.Head) *Status {
	kind := string(h.Get("content-type"))
	grpc := kind == "application/grpc" || strings.HasPrefix(kind, "application/grpc+") || strings.HasPrefix(kind, "application/grpc;")
	if h.Status == 200 && grpc {
		if e := h.Get("grpc-encoding"); e != nil && string(e) != "identity" {
			return &Status{Internal, fmt.Sprintf("messages are compressed by %.20q, which was not offered", e)}
		}
		return nil
	}
	if s, ok := statusOf(h); ok && s != nil && grpc {
		return s
	}
	code := Unknown
	switch h.Status {
	case 400:
		code = Internal
	case 401:
		code = Unauthenticated
	case 403:
		code = PermissionDenied
	case 404:
		code = Unimplemented
	case 429, 502, 503, 504:
		code = Unavailable
	}
	return &Status{code, fmt.Sprintf("the answer is not gRPC: HTTP status %d, content-type %.100q", h.Status, kind)}
}

// resetStatus is the status of a stream that was reset.
func resetStatus(r stream.Reset, detail string) *Status {
	s := &Status{Unavailable, detail}
	switch r {
	case stream.Cancelled:
		s.Code = Canceled
	case stream.Overflow:
		s.Code = Exhausted
	case stream.ProtocolError:
		s.Code = Internal
	}
	return s
}
