package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/demand"
)

// Bounds.
const (
	maxForwards = 256   // questions that wait for other resolvers, at a time
	maxStreams  = 64    // TCP connections
	maxPlain    = 512   // bytes of a UDP answer without EDNS
	maxEDNS     = 1232  // and with: what passes everywhere in one piece
	maxMessage  = 65535 // of TCP
	maxAnswers  = 1000
	idleStream  = 10 * time.Second
	ttl         = 30 // seconds, as Istio's agent
)

// Options of a Server.
type Options struct {
	// Namespace whose services are known by their names alone.
	Namespace string
	// Domain is the cluster's: names below it that the table does not have do
	// not exist. Empty: "cluster.local".
	Domain string
	// Resolvers are asked for all other names, in order; called for every
	// question.
	Resolvers func() []netip.AddrPort
	// Elsewhere says that the resolvers are the cluster's own: they are asked
	// for names below Domain too that the table does not have, for records that
	// are no addresses, and for everything as long as there is no table.
	Elsewhere bool
	// Demand is where a sidecar on demand looks names up; nil, or as long as it
	// knows nothing: a table has them.
	Demand *demand.Board
	Log    *slog.Logger // nil: slog.Default
}

// Server answers questions. Safe for concurrent use.
type Server struct {
	o     Options
	table atomic.Pointer[table] // nil: not yet known

	forwards chan struct{}
	streams  chan struct{}

	answered, forwarded, failed atomic.Uint64
}

// New makes a server; Packets and Streams serve.
func New(o Options) *Server {
	if o.Domain == "" {
		o.Domain = "cluster.local"
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return &Server{o: o, forwards: make(chan struct{}, maxForwards), streams: make(chan struct{}, maxStreams)}
}

// Update puts a table in force.
func (s *Server) Update(t *conf.NameTable) { s.table.Store(newTable(t, s.o.Namespace)) }

// Counts of questions: answered from the table, by other resolvers, and not.
func (s *Server) Counts() (answered, forwarded, failed uint64) {
	return s.answered.Load(), s.forwarded.Load(), s.failed.Load()
}

// Packets answers what arrives on c until c is closed.
func (s *Server) Packets(c net.PacketConn) {
	b := make([]byte, 4096)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue // an ICMP error of an earlier answer
		}
		q, ok := parse(b[:n])
		if !ok {
			continue
		}
		if out := s.local(q, false); out != nil {
			_, _ = c.WriteTo(out, from)
			continue
		}
		select {
		case s.forwards <- struct{}{}:
		default:
			_, _ = c.WriteTo(s.fail(q), from)
			continue
		}
		q.raw = append([]byte(nil), q.raw...)
		go func() {
			defer func() { <-s.forwards }()
			_, _ = c.WriteTo(s.elsewhere(q, "udp"), from)
		}()
	}
}

// Streams answers what arrives on connections of l until l is closed.
func (s *Server) Streams(l net.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(50 * time.Millisecond) // out of descriptors: it would come again at once
			continue
		}
		select {
		case s.streams <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-s.streams }()
			defer c.Close()
			s.stream(c)
		})
	}
}

// stream answers one question after the other (RFC 7766).
func (s *Server) stream(c net.Conn) {
	for {
		_ = c.SetDeadline(time.Now().Add(idleStream))
		b, err := readMessage(c)
		if err != nil {
			return
		}
		q, ok := parse(b)
		if !ok {
			return
		}
		out := s.local(q, true)
		if out == nil {
			out = s.elsewhere(q, "tcp")
		}
		_ = c.SetDeadline(time.Now().Add(idleStream))
		if err := writeMessage(c, out); err != nil {
			return
		}
	}
}

func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

func writeMessage(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

// question is a query message with one question.
type question struct {
	raw    []byte
	header dnsmessage.Header
	q      dnsmessage.Question
	name   string // lower case, no dot at the end
	edns   bool
	size   int // of UDP answers that the asker takes
}

// parse reads a query. It reports false for what is not one: nothing is
// answered to it.
func parse(b []byte) (*question, bool) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || h.Response {
		return nil, false
	}
	out := &question{raw: b, header: h, size: maxPlain}
	if out.q, err = p.Question(); err != nil {
		return nil, false
	}
	if _, err := p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return nil, false // nobody asks two at once
	}
	out.name = strings.ToLower(strings.TrimSuffix(out.q.Name.String(), "."))
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return nil, false
	}
	for {
		rh, err := p.AdditionalHeader()
		if err != nil {
			break
		}
		if rh.Type == dnsmessage.TypeOPT {
			out.edns, out.size = true, min(max(int(rh.Class), maxPlain), maxEDNS)
		}
		if p.SkipAdditional() != nil {
			break
		}
	}
	return out, true
}

// local answers from the table; nil: others have to be asked.
func (s *Server) local(q *question, stream bool) []byte {
	if q.header.OpCode != 0 {
		return reply(q, dnsmessage.RCodeNotImplemented, nil, stream)
	}
	if q.name == "localhost" || strings.HasSuffix(q.name, ".localhost") { // RFC 6761 6.3
		s.answered.Add(1)
		return reply(q, dnsmessage.RCodeSuccess, []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}, stream)
	}
	ours := !s.o.Elsewhere && (q.name == s.o.Domain || strings.HasSuffix(q.name, "."+s.o.Domain))
	if known := s.o.Demand.Learnt(); known != nil {
		return s.learnt(known, q, ours, stream)
	}
	t := s.table.Load()
	if t == nil {
		if ours {
			return s.fail(q)
		}
		return nil
	}
	if s.passes(q) {
		return nil
	}
	if list, ok := t.find(q.name); ok && q.q.Class == dnsmessage.ClassINET {
		s.answered.Add(1)
		return reply(q, dnsmessage.RCodeSuccess, list, stream)
	}
	if !ours {
		return nil
	}
	return s.unknown(q, stream)
}

// passes reports whether the cluster's own resolvers answer, whatever is asked
// for by that name.
func (s *Server) passes(q *question) bool {
	return s.o.Elsewhere && q.q.Type != dnsmessage.TypeA && q.q.Type != dnsmessage.TypeAAAA
}

// unknown answers for a name of the cluster's domain that nobody has.
func (s *Server) unknown(q *question, stream bool) []byte {
	s.answered.Add(1)
	if q.name == s.o.Domain || q.name == "svc."+s.o.Domain {
		return reply(q, dnsmessage.RCodeSuccess, nil, stream) // there are names below
	}
	return reply(q, dnsmessage.RCodeNameError, nil, stream)
}

// learnt answers from what was looked up; nil: somebody has to be asked.
func (s *Server) learnt(known *conf.Learnt, q *question, ours, stream bool) []byte {
	a := known.Host(q.name)
	switch {
	case s.passes(q):
		return nil
	case a != nil && !a.None() && q.q.Class == dnsmessage.ClassINET:
		a.Use(conf.Seconds(time.Now()))
		s.answered.Add(1)
		return reply(q, dnsmessage.RCodeSuccess, a.Host.Addresses, stream)
	case a == nil && known.Index.MayName(q.name), !ours:
		return nil
	}
	return s.unknown(q, stream)
}

// elsewhere answers a question that local could not: by the control plane when
// the name may be the mesh's, by other resolvers when it is not. Its goroutine
// waits.
func (s *Server) elsewhere(q *question, network string) []byte {
	known := s.o.Demand.Learnt()
	if known == nil || s.passes(q) || known.Host(q.name) != nil || !known.Index.MayName(q.name) {
		return s.forward(q, network)
	}
	if err := s.o.Demand.Ask(context.Background(), conf.Lookup{Kind: conf.LookupHost, Name: q.name}); err != nil && !s.o.Elsewhere {
		return s.fail(q)
	}
	if out := s.local(q, network == "tcp"); out != nil {
		return out
	}
	return s.forward(q, network)
}

func (s *Server) fail(q *question) []byte {
	s.failed.Add(1)
	return reply(q, dnsmessage.RCodeServerFailure, nil, true)
}

// reply makes a message with those addresses that the question asks for, in an
// order of chance. What does not fit a packet is left for TCP.
func reply(q *question, code dnsmessage.RCode, list []netip.Addr, stream bool) []byte {
	var fit []netip.Addr
	for _, a := range list {
		if a.Is4() && (q.q.Type == dnsmessage.TypeA || q.q.Type == dnsmessage.TypeALL) ||
			a.Is6() && (q.q.Type == dnsmessage.TypeAAAA || q.q.Type == dnsmessage.TypeALL) {
			fit = append(fit, a)
		}
	}
	rand.Shuffle(len(fit), func(i, j int) { fit[i], fit[j] = fit[j], fit[i] })
	limit := q.size
	if stream {
		limit = maxMessage
	}
	// A name of its own is written once; a record is 12 bytes and its address.
	room := (limit - 12 - len(q.q.Name.String()) - 1 - 4 - 11) / (12 + 16)
	truncated := len(fit) > room && !stream
	fit = fit[:min(len(fit), max(room, 0), maxAnswers)]
	h := dnsmessage.Header{ID: q.header.ID, Response: true, OpCode: q.header.OpCode, Authoritative: true, Truncated: truncated,
		RecursionDesired: q.header.RecursionDesired, RecursionAvailable: true, RCode: code}
	out, err := build(h, q, fit)
	if err != nil { // the name was parsed, so that it can be packed
		h.RCode = dnsmessage.RCodeServerFailure
		out, _ = build(h, &question{q: q.q}, nil)
	}
	return out
}

func build(h dnsmessage.Header, q *question, list []netip.Addr) ([]byte, error) {
	b := dnsmessage.NewBuilder(make([]byte, 0, 512), h)
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(q.q); err != nil {
		return nil, err
	}
	if err := b.StartAnswers(); err != nil {
		return nil, err
	}
	rh := dnsmessage.ResourceHeader{Name: q.q.Name, Class: dnsmessage.ClassINET, TTL: ttl}
	for _, a := range list {
		var err error
		if a.Is4() {
			err = b.AResource(rh, dnsmessage.AResource{A: a.As4()})
		} else {
			err = b.AAAAResource(rh, dnsmessage.AAAAResource{AAAA: a.As16()})
		}
		if err != nil {
			return nil, err
		}
	}
	if q.edns {
		if err := b.StartAdditionals(); err != nil {
			return nil, err
		}
		var opt dnsmessage.ResourceHeader
		if err := opt.SetEDNS0(maxEDNS, dnsmessage.RCodeSuccess, false); err != nil {
			return nil, err
		}
		if err := b.OPTResource(opt, dnsmessage.OPTResource{}); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}
