package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
)

// Client of the admin API. Safe for concurrent use.
type Client struct {
	path string
	http *http.Client
}

// Errors that a caller may want to tell apart.
var (
	ErrNoControlPlane = errors.New("no control plane is running")             // nobody serves the socket
	ErrNotReady       = errors.New("the control plane has not yet started")   // it has read no configuration
	ErrLost           = errors.New("the control plane ended during the call") // the connection broke
)

// NewClient talks to the socket at path. Nothing is dialled yet.
func NewClient(path string) *Client {
	return &Client{path: path, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "unix", path)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrNoControlPlane, err)
			}
			return c, nil
		},
		MaxIdleConns: 2,
	}}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Info about the control plane.
func (c *Client) Info(ctx context.Context) (*Info, error) {
	var out Info
	return &out, c.call(ctx, "GET", "/v1/info", nil, &out)
}

// Wait returns when the configuration's version is not than, or after half a
// minute.
func (c *Client) Wait(ctx context.Context, than string) (*Info, error) {
	var out Info
	return &out, c.call(ctx, "GET", "/v1/wait?than="+url.QueryEscape(than), nil, &out)
}

// Notices about the user's objects.
func (c *Client) Notices(ctx context.Context) ([]Notice, error) {
	var out []Notice
	err := c.call(ctx, "GET", "/v1/notices", nil, &out)
	return out, err
}

// Proxies that are connected.
func (c *Client) Proxies(ctx context.Context) ([]Proxy, error) {
	var out []Proxy
	err := c.call(ctx, "GET", "/v1/proxies", nil, &out)
	return out, err
}

// Workloads that are registered.
func (c *Client) Workloads(ctx context.Context) ([]Workload, error) {
	var out []Workload
	err := c.call(ctx, "GET", "/v1/workloads", nil, &out)
	return out, err
}

// Deployments in the configuration.
func (c *Client) Deployments(ctx context.Context) ([]Deployment, error) {
	var out []Deployment
	err := c.call(ctx, "GET", "/v1/deployments", nil, &out)
	return out, err
}

// SetReady says whether a workload ("ns/name") is to get traffic.
func (c *Client) SetReady(ctx context.Context, id string, ready bool) error {
	return c.call(ctx, "PUT", "/v1/workloads/"+id+"/ready", map[string]bool{"ready": ready}, nil)
}

// Deregister ends the registration of a workload ("ns/name").
func (c *Client) Deregister(ctx context.Context, id string) error {
	return c.call(ctx, "DELETE", "/v1/workloads/"+id, nil, nil)
}

// Lease is a place in the mesh for as long as it is not closed.
type Lease struct {
	control.Registration
	// Events is what changes; closed when the control plane ended the lease or
	// is gone. A reader that does not keep up stops nothing but itself.
	Events <-chan Event

	client *Client
	cancel context.CancelFunc
	done   chan struct{}
}

// Close gives the place back. When it returns, the workload gets no new
// traffic, or the control plane is gone.
func (l *Lease) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = l.client.Deregister(ctx, l.ID) // else the end of the connection does it
	l.cancel()
	<-l.done
}

// Register takes a place in the mesh. ctx bounds the lease, not just the call.
func (c *Client) Register(ctx context.Context, spec control.WorkloadSpec) (*Lease, error) {
	ctx, cancel := context.WithCancel(ctx)
	resp, err := c.send(ctx, "POST", "/v1/workloads", spec)
	if err != nil {
		cancel()
		return nil, err
	}
	d := json.NewDecoder(resp.Body)
	var first Event
	if err = d.Decode(&first); err == nil && first.Registration == nil {
		err = errors.New("the answer is another")
	}
	if err != nil {
		cancel()
		resp.Body.Close()
		return nil, fmt.Errorf("register: %w: no registration came: %w", ErrLost, err)
	}
	events := make(chan Event, 16)
	l := &Lease{Registration: *first.Registration, Events: events, client: c, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		defer resp.Body.Close()
		defer close(events)
		for {
			var e Event
			if err := d.Decode(&e); err != nil {
				return
			}
			select {
			case events <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return l, nil
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("answer of the control plane: %w", err)
	}
	return nil
}

// send returns a response that is a success.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("request to the control plane: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://tulle"+path, body)
	if err != nil {
		return nil, fmt.Errorf("request to the control plane: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // its text would name a host that is none
		}
		if !errors.Is(err, ErrNoControlPlane) && ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", ErrLost, err)
		}
		return nil, fmt.Errorf("control plane at %s: %w", c.path, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	var f failure
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if json.Unmarshal(text, &f) != nil || f.Error == "" {
		f.Error = resp.Status + ": " + strings.TrimSpace(string(text))
	}
	if resp.StatusCode == http.StatusServiceUnavailable {
		return nil, fmt.Errorf("%w: %s", ErrNotReady, f.Error)
	}
	return nil, errors.New(f.Error)
}
