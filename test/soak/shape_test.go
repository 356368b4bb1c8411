package soak

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"time"
)

// shape is a kind of traffic: one call of run is one request, or one session.
type shape struct {
	name  string
	pause time.Duration
	run   func(ctx context.Context, r *rand.Rand) error
}

// limit of one request; none takes so long unless it hangs.
const limit = 20 * time.Second

func clients(h2 bool) *http.Client {
	tr := &http.Transport{Protocols: &http.Protocols{}, DisableCompression: true}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetUnencryptedHTTP2(h2)
	return &http.Client{Transport: tr, Timeout: limit}
}

func body(r *rand.Rand, size int) []byte {
	b := make([]byte, 1+r.IntN(size))
	for i := range b {
		b[i] = byte('a' + (i+len(b))%26)
	}
	return b
}

// request sends bodies up to a size and wants them back.
func request(name, addr, host, path string, h2 bool, size int, pause time.Duration) shape {
	c := clients(h2)
	return shape{name, pause, func(ctx context.Context, r *rand.Rand) error {
		b := body(r, size)
		// http.NoBody's opposite: a reader that Go cannot rewind is never sent twice.
		req, err := http.NewRequestWithContext(ctx, "POST", "http://"+addr+path, io.MultiReader(bytes.NewReader(b)))
		if err != nil {
			return err
		}
		req.Host, req.ContentLength = host, int64(len(b))
		return answer(c, req, b)
	}}
}

// grpc is a unary call.
func grpc(name, addr, host string, pause time.Duration) shape {
	c := clients(true)
	return shape{name, pause, func(ctx context.Context, r *rand.Rand) error {
		b := body(r, 2000)
		b = append([]byte{0, 0, 0, byte(len(b) >> 8), byte(len(b))}, b...)
		req, err := http.NewRequestWithContext(ctx, "POST", "http://"+addr+"/soak.Echo/Say", io.MultiReader(bytes.NewReader(b)))
		if err != nil {
			return err
		}
		req.Host = host
		req.Header.Set("content-type", "application/grpc")
		req.Header.Set("te", "trailers")
		return answer(c, req, b)
	}}
}

func answer(c *http.Client, req *http.Request, want []byte) error {
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return fmt.Errorf("in the body: %w", err)
	case resp.StatusCode != 200:
		return fmt.Errorf("status %d: %.100q", resp.StatusCode, got)
	case req.Header.Get("te") != "" && resp.Trailer.Get("grpc-status")+resp.Header.Get("grpc-status") != "0":
		return fmt.Errorf("grpc-status %s%s %s", resp.Trailer.Get("grpc-status"), resp.Header.Get("grpc-status"), resp.Header.Get("grpc-message"))
	case !bytes.Equal(got, want):
		return fmt.Errorf("LIE: %d bytes instead of %d", len(got), len(want))
	}
	return nil
}

// session opens a connection, upgraded by HTTP or plain, and says things.
func session(name, addr, host string, upgrade bool, pause time.Duration) shape {
	return shape{name, pause, func(ctx context.Context, r *rand.Rand) error {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(limit))
		in := bufio.NewReader(c)
		if upgrade {
			fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nhost: %s\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", host)
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				return err
			}
			if resp.StatusCode != 101 {
				return fmt.Errorf("status %d", resp.StatusCode)
			}
		}
		for range 10 + r.IntN(20) {
			want := body(r, 3000)
			_ = c.SetDeadline(time.Now().Add(limit)) // of each answer: how long a session takes is the machine's affair
			if _, err := c.Write(want); err != nil {
				return err
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(in, got); err != nil {
				return fmt.Errorf("in the session: %w", err)
			}
			if !bytes.Equal(got, want) {
				return errors.New("LIE: other bytes came back")
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(100 * time.Millisecond):
			}
		}
		return nil
	}}
}

// quit is the path of those that go away: what the access logs say of them is
// no news.
const quit = "/quit"

// quitter asks for a large body and goes away in its middle.
func quitter(name, addr, host string, pause time.Duration) shape {
	return shape{name, pause, func(ctx context.Context, r *rand.Rand) error {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(limit))
		fmt.Fprintf(c, "POST "+quit+" HTTP/1.1\r\nhost: %s\r\ncontent-length: %d\r\n\r\n", host, 8<<20)
		_, _ = c.Write(make([]byte, r.IntN(1<<20))) // whatever becomes of it
		return nil
	}}
}
