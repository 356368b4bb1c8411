package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// holdOptions say what a process does to a contender beside the load, until its
// standard input ends.
type holdOptions struct {
	kind  string // idle, slow, or handshakes
	addr  string
	conns int
	tls   bool
	name  string      // server name
	pair  certificate // shown to the server; may be empty
	last  time.Duration
	conf  *tls.Config // nil: in clear text
}

// heldResult is what a process that holds has to say at its end.
type heldResult struct {
	Done   int64 `json:"done"` // handshakes with one request each
	Failed int64 `json:"failed"`
}

// holdMain is the command "hold": it says "ready" when what it holds stands,
// and goes on until its standard input ends.
func holdMain(args []string) error {
	o := holdOptions{}
	f := flag.NewFlagSet("hold", flag.ContinueOnError)
	f.StringVar(&o.kind, "kind", "idle", "idle: connections that have had a request; slow: readers of 10 MiB; handshakes: one after the other")
	f.StringVar(&o.addr, "addr", "", "where to")
	f.IntVar(&o.conns, "conns", 1, "connections at a time")
	f.BoolVar(&o.tls, "tls", false, "TLS")
	f.StringVar(&o.name, "name", hostName(loadHost), "server name of TLS")
	f.StringVar(&o.pair.cert, "cert", "", "certificate to show")
	f.StringVar(&o.pair.key, "key", "", "its key")
	f.DurationVar(&o.last, "last", time.Minute, "the end, whatever comes")
	if err := f.Parse(args); err != nil {
		return err
	}
	if o.tls {
		// Every contender knows X25519; none of those that Go prefers.
		o.conf = &tls.Config{InsecureSkipVerify: true, ServerName: o.name, MinVersion: tls.VersionTLS13,
			NextProtos: []string{"istio-http/1.1", "http/1.1"}, CurvePreferences: []tls.CurveID{tls.X25519}}
	}
	if o.pair.cert != "" {
		c, err := tls.LoadX509KeyPair(o.pair.cert, o.pair.key)
		if err != nil {
			return err
		}
		o.conf.Certificates = []tls.Certificate{c}
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.last)
	defer cancel()
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); cancel() }()
	r := &heldResult{}
	var err error
	switch o.kind {
	case "idle":
		err = o.idle(ctx)
	case "slow":
		err = o.slow(ctx)
	case "handshakes":
		o.handshakes(ctx, r)
	default:
		err = fmt.Errorf("there is no kind %q", o.kind)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// open dials and shakes hands.
func (o *holdOptions) open(d *net.Dialer) (net.Conn, error) {
	c, err := d.Dial("tcp", o.addr)
	if err != nil || o.conf == nil {
		return c, err
	}
	t := tls.Client(c, o.conf)
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if err := t.Handshake(); err != nil {
		_ = c.Close()
		return nil, err
	}
	return t, nil
}

// ask has one request answered.
func ask(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write(plainRequest); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != 200 {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return c.SetDeadline(time.Time{})
}

// idle holds connections that each have had one request.
func (o *holdOptions) idle(ctx context.Context) error {
	var all []net.Conn
	for i := range o.conns {
		c, err := o.open(&net.Dialer{Timeout: 10 * time.Second})
		if err == nil {
			err = ask(c)
		}
		if err != nil {
			return fmt.Errorf("connection %d: %w", i+1, err)
		}
		all = append(all, c)
	}
	fmt.Println("ready")
	<-ctx.Done()
	for _, c := range all {
		_ = c.Close()
	}
	return nil
}

// slow holds clients that asked for 10 MiB and read 80 KiB of it in a second,
// with a socket that takes little ahead.
func (o *holdOptions) slow(ctx context.Context) error {
	request := bytes.Replace(plainRequest, []byte(loadPath), []byte(hugePath), 1)
	small := func(_, _ string, raw syscall.RawConn) (err error) {
		e := raw.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 16<<10)
		})
		return errors.Join(e, err)
	}
	var all []net.Conn
	buf := make([]byte, 8<<10)
	for i := range o.conns {
		c, err := o.open(&net.Dialer{Timeout: 10 * time.Second, Control: small})
		if err == nil {
			defer c.Close()
			if _, err = c.Write(request); err == nil {
				_, err = c.Read(buf)
			}
		}
		if err != nil || !bytes.HasPrefix(buf, []byte("HTTP/1.1 200")) {
			return fmt.Errorf("connection %d: %.40q: %w", i+1, buf, errors.Join(err))
		}
		all = append(all, c)
	}
	fmt.Println("ready")
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		for i, c := range all {
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := c.Read(buf); err != nil {
				return fmt.Errorf("slow reader %d: %w", i+1, err)
			}
		}
	}
}

// handshakes makes connections, each with one request, that many at a time.
func (o *holdOptions) handshakes(ctx context.Context, r *heldResult) {
	fmt.Println("ready")
	var wg sync.WaitGroup
	var once sync.Once
	for range o.conns {
		wg.Go(func() {
			for ctx.Err() == nil {
				c, err := o.open(&net.Dialer{Timeout: 10 * time.Second})
				if err == nil {
					err = ask(c)
					_ = c.Close()
				}
				if err == nil {
					atomic.AddInt64(&r.Done, 1)
				} else if ctx.Err() == nil {
					atomic.AddInt64(&r.Failed, 1)
					once.Do(func() { fmt.Fprintln(os.Stderr, "handshake:", err) })
				}
			}
		})
	}
	wg.Wait()
}
