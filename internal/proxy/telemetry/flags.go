package telemetry

import (
	"math/bits"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// Flags are Envoy's response flags as a set, in the order Envoy prints them.
type Flags uint32

// The flags.
const (
	FlagURX   Flags = 1 << iota // retry or connect-attempt limit reached
	FlagLH                      // local health check failed
	FlagUH                      // no healthy upstream
	FlagUT                      // upstream request timeout
	FlagLR                      // local reset
	FlagUR                      // upstream remote reset
	FlagUF                      // upstream connection failure
	FlagUC                      // upstream connection termination
	FlagUO                      // upstream overflow
	FlagNR                      // no route found
	FlagDI                      // delay injected
	FlagFI                      // fault injected
	FlagRL                      // rate limited
	FlagUAEX                    // external authorization denied
	FlagRLSE                    // rate limit service error
	FlagDC                      // downstream connection termination
	FlagSI                      // stream idle timeout
	FlagIH                      // invalid Envoy headers
	FlagDPE                     // downstream protocol error
	FlagUMSDR                   // upstream maximum stream duration reached
	FlagRFCF                    // response from a cache filter
	FlagNFCF                    // no filter configuration found
	FlagDT                      // duration timeout
	FlagUPE                     // upstream protocol error
	FlagNC                      // no cluster found
	FlagOM                      // overload manager
	FlagDF                      // DNS resolution failed
	FlagDO                      // drop overload
	FlagDR                      // downstream remote reset
)

var flagNames = [...]string{"URX", "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC",
	"SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR"}

// Append writes the flags separated by commas; "-" for none.
func (f Flags) Append(dst []byte) []byte {
	if f == 0 {
		return append(dst, '-')
	}
	for n := 0; f != 0; n++ {
		i := bits.TrailingZeros32(uint32(f))
		f &^= 1 << i
		if n > 0 {
			dst = append(dst, ',')
		}
		if i < len(flagNames) {
			dst = append(dst, flagNames[i]...)
		}
	}
	return dst
}

// String is Append as a string.
func (f Flags) String() string { return string(f.Append(nil)) }

// ParseFlag is the flag of that name; 0: there is none.
func ParseFlag(name string) Flags {
	for i, n := range flagNames {
		if n == name {
			return 1 << i
		}
	}
	return 0
}

// FlagsOf is the flag of an upstream stream that broke.
func FlagsOf(r stream.Reset) Flags {
	switch r {
	case stream.ConnectFailed, stream.ConnectTimedOut, stream.TLSFailed:
		return FlagUF
	case stream.ConnectionLost:
		return FlagUC
	case stream.Overflow:
		return FlagUO
	case stream.ProtocolError:
		return FlagUPE
	case stream.LocalReset:
		return FlagLR
	case stream.Refused, stream.Cancelled, stream.RemoteReset:
		return FlagUR
	}
	return 0
}
