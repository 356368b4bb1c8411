package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/proxy/stream"
)

// ErrClosed is returned after Client.Close.
var ErrClosed = errors.New("client closed")

// Times between a peer's last byte and a ping: at first, and at most when
// peers say that it is too often (gRPC's ENHANCE_YOUR_CALM). With pongWithin a
// peer whose packets vanish is given up after 20 s.
const (
	firstQuiet = 12 * time.Second
	lastQuiet  = 10 * time.Minute
)

// connectWithin bounds dialing and the TLS handshake.
const connectWithin = 5 * time.Second

// Options of a Client.
type Options struct {
	// Dial makes a connection that speaks HTTP/2. Its context ends with the
	// call that needs it, and after a time.
	Dial      func(context.Context) (net.Conn, error)
	Scheme    string // of :scheme, "http" or "https"
	Authority string
	UserAgent string
	// Token is asked before every call; what it returns goes along as a bearer
	// token unless it is empty. May be nil.
	Token      func() (string, error)
	MaxMessage int // bytes of a received message
}

// Client keeps one connection, made when it is first needed and again when it
// is gone. Safe for concurrent use.
type Client struct {
	o       Options
	dialing chan struct{} // held by who dials
	ctx     context.Context
	stop    context.CancelFunc

	mu     sync.Mutex
	now    *conn // the newest; may be gone
	all    map[*conn]struct{}
	quiet  time.Duration
	closed bool
}

// New makes a client. Nothing is dialed before a call.
func New(o Options) *Client {
	c := &Client{o: o, dialing: make(chan struct{}, 1), all: map[*conn]struct{}{}, quiet: firstQuiet}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

// Open begins a stream, which ends with ctx, and when the peer says goodbye.
func (c *Client) Open(ctx context.Context, method string) (*Stream, error) {
	return c.begin(ctx, method, true)
}

// Call makes one exchange: a message there and one back.
func (c *Client) Call(ctx context.Context, method string, in []byte) ([]byte, error) {
	s, err := c.begin(ctx, method, false)
	if err != nil {
		return nil, err
	}
	return s.exchange(in)
}

func (c *Client) begin(ctx context.Context, method string, long bool) (*Stream, error) {
	h, err := c.requestHead(ctx, method)
	if err != nil {
		return nil, err
	}
	for range 3 { // a connection may say goodbye between being found and used
		conn, err := c.connection(ctx)
		if err != nil {
			return nil, err
		}
		if s := conn.open(ctx, long, h); s != nil {
			return s, nil
		}
	}
	return nil, &Status{Unavailable, "connections end at once"}
}

// connection returns one on which a stream can be opened.
func (c *Client) connection(ctx context.Context) (*conn, error) {
	select {
	case c.dialing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-c.dialing }()
	c.mu.Lock()
	now, quiet := c.now, c.quiet
	c.mu.Unlock()
	if now != nil && now.usable() {
		return now, nil
	}
	dctx, cancel := context.WithTimeout(ctx, connectWithin)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	nc, err := c.o.Dial(dctx)
	if c.ctx.Err() != nil {
		if err == nil {
			_ = nc.Close()
		}
		return nil, ErrClosed
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	next := newConn(c, nc, quiet)
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.now, c.all[next] = next, struct{}{}
	}
	c.mu.Unlock()
	if closed {
		_ = nc.Close()
		return nil, ErrClosed
	}
	go next.run()
	return next, nil
}

// forget drops a connection that is over.
func (c *Client) forget(x *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, x)
	if c.now == x {
		c.now = nil
	}
}

// pingLess takes note that a peer called pings after that long too many.
func (c *Client) pingLess(quiet time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quiet = min(max(c.quiet, 2*quiet), lastQuiet)
}

// Close ends all connections and calls, and waits for their goroutines.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	var all []*conn
	for x := range c.all {
		all = append(all, x)
	}
	c.mu.Unlock()
	c.stop()
	for _, x := range all {
		x.close()
	}
	return nil
}

var _ stream.Peer = (*Stream)(nil)
var _ stream.Wire = (*conn)(nil)
