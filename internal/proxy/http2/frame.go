package http2

import (
	"encoding/binary"
	"strconv"
)

// Preface is what a client connection begins with (RFC 9113 3.4).
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Frame types (RFC 9113 6).
const (
	frameData         = 0
	frameHeaders      = 1
	framePriority     = 2
	frameReset        = 3
	frameSettings     = 4
	framePush         = 5
	framePing         = 6
	frameGoAway       = 7
	frameWindow       = 8
	frameContinuation = 9
)

// Flags.
const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// Settings (RFC 9113 6.5.2, RFC 8441 3).
const (
	setTableSize  = 1
	setPush       = 2
	setMaxStreams = 3
	setWindow     = 4
	setFrameSize  = 5
	setMaxHead    = 6
	setConnect    = 8
)

type code uint32

// Error codes (RFC 9113 7).
const (
	noError         code = 0
	protocolError   code = 1
	internalError   code = 2
	flowError       code = 3
	streamClosed    code = 5
	frameSizeError  code = 6
	refusedStream   code = 7
	cancel          code = 8
	compression     code = 9
	connectError    code = 10
	enhanceYourCalm code = 11
)

var codeNames = [...]string{
	"NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT",
	"STREAM_CLOSED", "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR",
	"CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
}

func (c code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "error code " + strconv.FormatUint(uint64(c), 10)
}

func appendFrame(o []byte, n int, kind, flags byte, id uint32) []byte {
	return append(o, byte(n>>16), byte(n>>8), byte(n), kind, flags, byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

// patchFrame fills the length of a frame header in.
func patchFrame(b []byte, n int) {
	b[0], b[1], b[2] = byte(n>>16), byte(n>>8), byte(n)
}

func appendSetting(o []byte, k uint16, v int) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(o, k), uint32(v))
}

func appendUint32(o []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(o, v) }
