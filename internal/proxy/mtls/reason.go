package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/loop"
)

// Reason is why TLS failed, for access logs and metrics.
type Reason uint8

// Reasons.
const (
	Protocol      Reason = iota // what came is not TLS, or breaks it
	Closed                      // the connection ended during the handshake
	TimedOut                    // the handshake took too long
	Overloaded                  // too many handshakes wait
	NoCertificate               // our own certificate is not there yet
	NoTrust                     // the bundle to verify with is not there yet
	NoClientCert                // the client showed no certificate
	UnknownCA                   // not signed by a CA that we trust
	Expired                     // certificate expired or not yet valid
	SANMismatch                 // verified, but not who was expected
	BadCert                     // otherwise not acceptable
	RemoteAlert                 // the peer refused
)

var reasons = [...]string{"protocol error", "closed during handshake", "handshake timed out",
	"too many handshakes", "own certificate is missing", "trust bundle is missing",
	"client showed no certificate", "unknown CA", "certificate expired", "SAN does not match",
	"bad certificate", "refused by the peer"}

// String is the reason in plain words.
func (r Reason) String() string { return reasons[r] }

// Error is a TLS failure.
type Error struct {
	Reason Reason
	Err    error // more; may be nil
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Reason.String()
	}
	return e.Reason.String() + ": " + strings.TrimPrefix(e.Err.Error(), "tls: ")
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func failure(r Reason, format string, args ...any) *Error {
	return &Error{r, fmt.Errorf(format, args...)}
}

// classify types an error of crypto/tls.
func classify(err error) *Error {
	var own *Error
	var op *net.OpError
	var header tls.RecordHeaderError
	switch {
	case errors.As(err, &own):
		return own
	case errors.Is(err, context.DeadlineExceeded):
		return &Error{TimedOut, nil}
	case errors.Is(err, loop.ErrGateFull):
		return &Error{Overloaded, nil}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &Error{Closed, nil}
	case errors.As(err, &op) && op.Op == "remote error":
		return &Error{RemoteAlert, op.Err}
	case errors.As(err, &header):
		return &Error{Protocol, errors.New(header.Msg)}
	case strings.HasSuffix(err.Error(), "client didn't provide a certificate"):
		return &Error{NoClientCert, nil}
	}
	return &Error{Protocol, err}
}

// classifyCert types an error of certificate verification.
func classifyCert(err error) *Error {
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, new(x509.UnknownAuthorityError)):
		return &Error{UnknownCA, err}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return &Error{Expired, err}
	}
	return &Error{BadCert, err}
}
