package conf

import (
	"strings"

	"github.com/tulle-mesh/tulle/internal/proxy/conf/wire"
)

// Compressor is a compressor filter that acts on answers.
type Compressor struct {
	Encoding   string   // content coding: Gzip or Brotli
	Level      int      // of the library
	Types      []string // media types without parameters
	MinLength  int64    // shorter answers stay as they are; those of unknown length do not
	NotStatus  []int    // answers that stay as they are
	WeakenETag bool     // else a strong one is taken away
	First      bool     // among equals
}

// Content codings (RFC 9110 section 8.4.1, RFC 7932).
const (
	Gzip   = "gzip"
	Brotli = "br"
)

// envoyTypes are the types that Envoy compresses when it is told none.
var envoyTypes = []string{
	"text/html", "text/plain", "text/css", "text/xml", "text/javascript", "text/x-javascript", "text/ecmascript", "text/js",
	"text/jscript", "text/x-js", "application/javascript", "application/x-javascript", "application/ecmascript",
	"application/json", "application/x-json", "application/xml", "application/xhtml+xml", "image/svg+xml",
}

// Levels of our libraries at which 64 KiB take less than a millisecond.
const (
	gzipFast, gzipMiddle = 1, 5
	brotliMost           = 3
)

const maxTypes = 256

func compressor(m *wire.Compressor) (*Compressor, error) {
	out := &Compressor{Types: envoyTypes, MinLength: 30, First: m.ChooseFirst}
	if m.CompressorLibrary == nil || m.CompressorLibrary.TypedConfig == nil {
		return nil, refuse("typed_config.compressor_library", "missing")
	}
	switch lib := m.CompressorLibrary.TypedConfig.Msg.(type) {
	case *wire.Gzip:
		out.Encoding, out.Level = Gzip, gzipMiddle
		if l := lib.CompressionLevel; l == wire.GzipCompressionLevelBestSpeed {
			out.Level = gzipFast
		}
	case *wire.Brotli:
		out.Encoding, out.Level = Brotli, int(min(or(lib.Quality, brotliMost), brotliMost))
	default:
		return nil, refuse("typed_config.compressor_library", "not supported")
	}
	r := m.ResponseDirectionConfig
	if r == nil {
		return out, nil
	}
	out.WeakenETag = r.WeakenEtagOnCompress
	for _, n := range r.UncompressibleResponseCodes {
		if n < 200 || n > 599 || len(out.NotStatus) == 400 {
			return nil, refuse("typed_config.response_direction_config.uncompressible_response_codes", "%d is not between 200 and 599, or there are too many", n)
		}
		out.NotStatus = append(out.NotStatus, int(n))
	}
	if c := r.CommonConfig; c != nil {
		if n := or(c.MinContentLength, 0); n > 0 {
			out.MinLength = int64(n)
		}
		if len(c.ContentType) > maxTypes {
			return nil, refuse("typed_config.response_direction_config.common_config.content_type", "%d are too many", len(c.ContentType))
		}
		if len(c.ContentType) > 0 {
			out.Types = nil
			for _, t := range c.ContentType {
				out.Types = append(out.Types, strings.ToLower(t))
			}
		}
	}
	return out, nil
}
