package lower

import (
	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	brotlipb "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/brotli/compressor/v3"
	gzippb "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/gzip/compressor/v3"
	bodypb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/body_size_limit/v3"
	compressorpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/compressor/v3"
	hcmpb "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/model"
)

// requestFilters are those of the policies, in the order in which they act:
// what a limit refuses is not read. Answers of all of them are compressed.
func (l *Lowering) requestFilters(ps []*model.RequestPolicy) []*hcmpb.HttpFilter {
	out := l.rateLimits(ps)
	if n := boundsOf(ps).BodyBytes; n > 0 {
		out = append(out, httpFilter("traffic.tulle.dev/body", &bodypb.BodySizeLimit{MaxRequestBytes: u64(uint64(n))}))
	}
	var c *model.Compression
	for _, p := range ps {
		if p.Compress != nil {
			c = p.Compress
		}
	}
	if c != nil {
		l.origin(c.Origin)
		out = append(out, compressors(c)...)
	}
	return out
}

func boundsOf(ps []*model.RequestPolicy) (b model.RequestBounds) {
	for _, p := range ps {
		b = b.Stricter(p.Bounds)
	}
	return b
}

// bound holds a manager to the bounds of the policies.
func (l *Lowering) bound(m *hcmpb.HttpConnectionManager, ps []*model.RequestPolicy) {
	b := boundsOf(ps)
	if b == (model.RequestBounds{}) {
		return
	}
	for _, p := range ps {
		if p.Bounds != (model.RequestBounds{}) {
			l.origin(p.Origin)
		}
	}
	if b.HeaderBytes > 0 {
		m.MaxRequestHeadersKb = u32(b.HeaderBytes >> 10)
	}
	if b.HeaderTime > 0 {
		m.RequestHeadersTimeout = dur(b.HeaderTime)
	}
	if b.RequestTime > 0 {
		m.RequestTimeout = dur(b.RequestTime)
	}
	if b.IdleTime > 0 {
		m.StreamIdleTimeout = dur(b.IdleTime)
	}
	if b.Headers > 0 || b.StreamTime > 0 {
		o := &corepb.HttpProtocolOptions{}
		if b.Headers > 0 {
			o.MaxHeadersCount = u32(b.Headers)
		}
		if b.StreamTime > 0 {
			o.MaxStreamDuration = dur(b.StreamTime)
		}
		m.CommonHttpProtocolOptions = o
	}
}

// compressors are a filter for each algorithm.
func compressors(c *model.Compression) []*hcmpb.HttpFilter {
	var out []*hcmpb.HttpFilter
	for i, a := range c.Algorithms {
		var library proto.Message = &gzippb.Gzip{}
		if a == "brotli" {
			library = &brotlipb.Brotli{Quality: u32(3)}
		}
		out = append(out, httpFilter("traffic.tulle.dev/"+a, &compressorpb.Compressor{
			CompressorLibrary: &corepb.TypedExtensionConfig{Name: a, TypedConfig: pack(library)},
			ResponseDirectionConfig: &compressorpb.Compressor_ResponseDirectionConfig{
				CommonConfig: &compressorpb.Compressor_CommonDirectionConfig{MinContentLength: u32(c.MinBytes), ContentType: c.ContentTypes},
				// A part of a whole may be put together with others.
				UncompressibleResponseCodes: []uint32{206},
				WeakenEtagOnCompress:        true,
			},
			ChooseFirst: i == 0 && len(c.Algorithms) > 1,
		}))
	}
	return out
}
