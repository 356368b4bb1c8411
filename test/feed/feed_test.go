package feed

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/proxy/conf"
	"github.com/tulle-mesh/tulle/internal/proxy/feed"
	"github.com/tulle-mesh/tulle/internal/source/file"
)

// plane is a running control plane over the demo's directory and our own.
type plane struct {
	*control.Plane
	dir string
	ctx context.Context
}

func start(t *testing.T) *plane {
	t.Helper()
	p := &plane{dir: t.TempDir()}
	for _, glob := range []string{"../../internal/demo/mesh/*.yaml", "testdata/*.yaml"} {
		files, _ := filepath.Glob(glob)
		if len(files) == 0 {
			t.Fatalf("no %s", glob)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			p.write(t, filepath.Base(f), string(b))
		}
	}
	chain, key := selfSigned(t)
	b64 := base64.StdEncoding.EncodeToString
	p.write(t, "secret.yaml", fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: edge-cert, namespace: wide}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s, ca.crt: %s}\n",
		b64(chain), b64(key), b64(chain)))
	state, err := os.MkdirTemp("", "tulle") // short: the path of a unix socket is bounded
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	if p.Plane, err = control.New(control.Options{Dir: state, Source: &file.Watcher{Paths: []string{p.dir}}, Version: "test"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("control plane: %v", err)
		}
	})
	p.ctx = ctx
	for p.Compiled() == nil {
		_, _, newer := p.Changed()
		select {
		case <-newer:
		case <-ctx.Done():
			t.Fatal("nothing was compiled")
		}
	}
	return p
}

func (p *plane) write(t *testing.T, name, text string) {
	t.Helper()
	tmp := filepath.Join(p.dir, "."+name)
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(p.dir, name)); err != nil {
		t.Fatal(err)
	}
}

func selfSigned(t *testing.T) (chain, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"tls.example"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	kder, _ := x509.MarshalPKCS8PrivateKey(k)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder})
}

// client is a feed of one workload.
type client struct {
	*feed.Feed
	mu   sync.Mutex
	snap *conf.Snapshot
	news chan struct{} // capacity 1
}

func (p *plane) client(t *testing.T, spec control.WorkloadSpec, edit func(*feed.Config)) *client {
	t.Helper()
	uid := uint32(os.Getuid())
	r, err := p.Register(spec, &uid)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte(r.Token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &client{news: make(chan struct{}, 1)}
	conf := feed.Config{Address: "unix://" + p.Socket(), TokenFile: token, Identity: r.ID,
		Node:     feed.Node{ID: r.ID, UserAgent: "tulle-proxy", Features: []string{"tulle.bridge"}},
		StateDir: filepath.Join(dir, "state"), SecretDir: filepath.Join(dir, "secrets"), Log: slog.New(slog.DiscardHandler),
		Publish: func(s *conf.Snapshot) {
			c.mu.Lock()
			c.snap = s
			c.mu.Unlock()
			select {
			case c.news <- struct{}{}:
			default:
			}
		}}
	if edit != nil {
		edit(&conf)
	}
	if c.Feed, err = feed.New(conf); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(p.ctx)
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("feed: %v", err)
		}
	})
	return c
}

// await waits until ok holds of the newest snapshot.
func (c *client) await(t *testing.T, ctx context.Context, what string, ok func(*conf.Snapshot) bool) *conf.Snapshot {
	t.Helper()
	for {
		c.mu.Lock()
		s := c.snap
		c.mu.Unlock()
		if s != nil && ok(s) {
			return s
		}
		select {
		case <-c.news:
		case <-ctx.Done():
			t.Fatalf("%s never came; %+v", what, c.Status(context.Background()))
		}
	}
}

func whole(s *conf.Snapshot) bool {
	return len(s.Listeners) > 0 && s.Secrets["default"] != nil && s.Secrets["ROOTCA"] != nil
}

// Every resource for every kind of client is accepted, over both protocols,
// over the unix socket and over TLS.
func TestEverythingIsAccepted(t *testing.T) {
	p := start(t)
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, p.Roots(), 0o600); err != nil {
		t.Fatal(err)
	}
	specs := map[string]control.WorkloadSpec{
		"sidecar":  {Namespace: "wide", Labels: map[string]string{"app": "web"}, Account: "web", Ready: true, Ports: []control.PortSpec{{Port: 8080}, {Port: 9000}}},
		"captured": {Namespace: "wide", Labels: map[string]string{"app": "web"}, Account: "web", Redirected: true, Ready: true, Ports: []control.PortSpec{{Port: 8080}}},
		"gateway":  {Namespace: "wide", Labels: map[string]string{"istio": "edge"}, Account: "edge", Gateway: true, Ready: true},
	}
	for name, spec := range specs {
		for proto, edit := range map[string]func(*feed.Config){
			"delta": nil,
			"sotw":  func(c *feed.Config) { c.StateOfTheWorld = true },
			"tls":   func(c *feed.Config) { c.Address, c.CAFile = p.Address(), roots },
		} {
			t.Run(name+"/"+proto, func(t *testing.T) {
				c := p.client(t, spec, edit)
				s := c.await(t, p.ctx, "a whole snapshot", whole)
				if name == "gateway" {
					s = c.await(t, p.ctx, "the gateway's certificate", func(s *conf.Snapshot) bool { return s.Secrets["kubernetes://edge-cert"] != nil })
				}
				st := c.Status(p.ctx)
				if len(st.Refused) > 0 {
					t.Errorf("refused: %v", st.Refused)
				}
				if !st.Synced || st.Certificate == "" || len(s.Clusters) < 5 || len(s.Routes) == 0 {
					t.Errorf("status %+v; %d clusters, %d route tables", st, len(s.Clusters), len(s.Routes))
				}
				for _, l := range s.Listeners {
					for _, r := range l.Needs().Routes {
						if s.Routes[r] == nil {
							t.Errorf("listener %s: no routes %s", l.Name, r)
						}
					}
				}
				for _, c := range s.Clusters {
					for _, e := range c.Needs().Endpoints {
						if s.Endpoints[e] == nil {
							t.Errorf("cluster %s: no endpoints %s", c.Name, e)
						}
					}
				}
			})
		}
	}
}

const split = `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: moving, namespace: wide}
spec:
  hosts: [moving.example]
  http: [{route: [{destination: {host: backend, port: {number: 80}, subset: v1}, weight: %d}, {destination: {host: backend, port: {number: 80}, subset: v2}, weight: %d}]}]
`

// A changed file is in force within its time, and changes only what it says.
// A second stream starts from what is on disk.
func TestChange(t *testing.T) {
	p := start(t)
	p.write(t, "split.yaml", fmt.Sprintf(split, 90, 10))
	weight := func(s *conf.Snapshot) uint32 {
		for _, table := range s.Routes {
			for _, v := range table.Hosts {
				for _, r := range v.Routes {
					if r.Forward != nil && len(r.Forward.Clusters) == 2 && r.Origin == "virtualservice/wide/moving#spec.http[0]" {
						return r.Forward.Clusters[1].Weight
					}
				}
			}
		}
		return 0
	}
	var dir string
	spec := control.WorkloadSpec{Namespace: "wide", Labels: map[string]string{"app": "web"}, Account: "web", Ready: true, Redirected: true}
	c := p.client(t, spec, func(c *feed.Config) { dir = c.StateDir })
	a := c.await(t, p.ctx, "10 %", func(s *conf.Snapshot) bool { return whole(s) && weight(s) == 10 })
	p.write(t, "split.yaml", fmt.Sprintf(split, 50, 50))
	b := c.await(t, p.ctx, "50 %", func(s *conf.Snapshot) bool { return weight(s) == 50 })
	changed := 0
	for n, l := range b.Listeners {
		if a.Listeners[n] != l {
			changed++
		}
	}
	for n, x := range b.Clusters {
		if a.Clusters[n] != x {
			changed++
		}
	}
	if changed > 0 {
		t.Errorf("%d listeners and clusters are new", changed)
	}
	for i := 0; ; i++ { // it is written a second after the change
		if _, err := os.Stat(filepath.Join(dir, "config.state")); err == nil {
			break
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-p.ctx.Done():
			t.Fatal("nothing was kept")
		}
	}
}
