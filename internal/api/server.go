package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/model"
)

// maxBody bounds the body of a request, in bytes.
const maxBody = 1 << 20

// Socket is the name of the API's socket in a state directory.
const Socket = "api.sock"

// Server is the admin API over a Plane.
type Server struct {
	plane   *control.Plane
	version string
	log     func(string, ...any)
	ending  atomic.Bool // leases end because the server does: the programs go on
}

// NewServer makes the API. version is the program's; log may be nil.
func NewServer(p *control.Plane, version string, log func(string, ...any)) *Server {
	if log == nil {
		log = func(string, ...any) {}
	}
	return &Server{plane: p, version: version, log: log}
}

// peerKey is the context key of who is at the other end, a control.Peer.
type peerKey struct{}

// Serve answers on a unix socket until ctx ends; it closes l. Leases end with
// it, but not the registrations: their programs come back when they can.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.admit(s.routes()),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if p, err := control.PeerOf(c); err == nil {
				ctx = context.WithValue(ctx, peerKey{}, p)
			}
			return ctx
		},
	}
	stop := context.AfterFunc(ctx, func() { s.ending.Store(true); srv.Close() })
	defer stop()
	if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the admin api: %w", err)
	}
	return nil
}

// admit serves our own user and root only.
func (s *Server) admit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer, known := r.Context().Value(peerKey{}).(control.Peer)
		if !known || int(peer.UID) != os.Getuid() && peer.UID != 0 {
			answer(w, http.StatusForbidden, failure{"this control plane belongs to another user"})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}

func (s *Server) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/info", s.info)
	m.HandleFunc("GET /v1/wait", s.wait)
	m.HandleFunc("GET /v1/notices", s.notices)
	m.HandleFunc("GET /v1/proxies", s.proxies)
	m.HandleFunc("GET /stats/prometheus", s.Metrics)
	m.HandleFunc("GET /v1/workloads", s.workloads)
	m.HandleFunc("POST /v1/workloads", s.register)
	m.HandleFunc("PUT /v1/workloads/{namespace}/{name}/ready", s.ready)
	m.HandleFunc("DELETE /v1/workloads/{namespace}/{name}", s.deregister)
	m.HandleFunc("GET /v1/deployments", s.deployments)
	return m
}

func answer(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client is gone, or reads it
}

func (s *Server) info(w http.ResponseWriter, _ *http.Request) {
	version, since, _ := s.plane.Changed()
	out := Info{
		Version: s.version, PID: os.Getpid(), Socket: s.plane.Socket(), Address: s.plane.Address(),
		Roots: string(s.plane.Roots()), Config: version, Since: since,
	}
	for _, n := range s.plane.Notices() {
		switch n.Severity {
		case model.Error:
			out.Errors++
		case model.Warning:
			out.Warns++
		}
	}
	answer(w, http.StatusOK, out)
}

// wait answers when the configuration is another than ?than=VERSION, or after
// half a minute.
func (s *Server) wait(w http.ResponseWriter, r *http.Request) {
	timeout := time.NewTimer(30 * time.Second)
	defer timeout.Stop()
	for {
		version, _, newer := s.plane.Changed()
		if version != r.URL.Query().Get("than") {
			break
		}
		select {
		case <-newer:
			continue
		case <-timeout.C:
		case <-r.Context().Done():
		}
		break
	}
	s.info(w, r)
}

func (s *Server) notices(w http.ResponseWriter, _ *http.Request) {
	out := []Notice{}
	for _, n := range s.plane.Notices() {
		o := n.Origin
		out = append(out, Notice{
			Severity: n.Severity.String(), Reason: n.Reason, Kind: o.Kind, Namespace: o.Namespace, Name: o.Name,
			Field: o.Field, File: o.File, Line: o.Line, Message: n.Text, Text: n.String(),
		})
	}
	answer(w, http.StatusOK, out)
}

func (s *Server) proxies(w http.ResponseWriter, _ *http.Request) {
	out := []Proxy{}
	for _, st := range s.plane.Streams() {
		p := Proxy{Workload: st.Key, Agent: st.UserAgent, Proof: st.Proof, Since: st.Since, Delta: st.Delta, Demand: st.Demand, Synced: true}
		for _, t := range st.Types {
			x := ProxyType{Type: t.Type, State: "SYNCED", Sent: t.Sent, Acked: t.Acked, Held: t.Held, Names: t.Names, Absent: t.Absent, Refused: t.Refused, Reason: t.Reason,
				SentAt: t.SentAt, AckedAt: t.AckedAt, Responses: t.Responses, Resources: t.Resources, Bytes: t.Bytes}
			switch {
			case len(t.Refused) > 0:
				x.State = "REJECTED"
			case t.Sent == "":
				x.State = "NOT SENT"
			case !t.Synced():
				x.State = "STALE"
			}
			p.Synced = p.Synced && x.State != "REJECTED" && x.State != "STALE"
			p.Types = append(p.Types, x)
		}
		out = append(out, p)
	}
	answer(w, http.StatusOK, out)
}

func (s *Server) workloads(w http.ResponseWriter, _ *http.Request) {
	connected := map[string]bool{}
	for _, st := range s.plane.Streams() {
		connected[st.Key] = true
	}
	out := []Workload{}
	for _, x := range s.plane.Workloads() {
		id := x.Namespace + "/" + x.Name
		out = append(out, Workload{
			ID: id, Owner: x.Owner, Account: x.Account, Labels: x.Labels, IP: x.Address,
			Ready: x.Ready, Gateway: x.Gateway, Proxy: connected[id],
		})
	}
	answer(w, http.StatusOK, out)
}

func (s *Server) deployments(w http.ResponseWriter, _ *http.Request) {
	out := []Deployment{}
	c := s.plane.Compiled()
	if c == nil {
		answer(w, http.StatusOK, out)
		return
	}
	running := map[string]int{}
	for _, x := range s.plane.Workloads() {
		running[x.Namespace+"/"+x.Owner]++
	}
	for _, d := range c.Fragment.Workloads {
		if d.Template {
			out = append(out, Deployment{d.Namespace, d.Name, running[d.Namespace+"/"+d.Name], d.Origin.File, d.Origin.Line})
		}
	}
	answer(w, http.StatusOK, out)
}

// register answers with lines: the registration, then events. The workload is
// in the mesh until the connection ends.
func (s *Server) register(w http.ResponseWriter, r *http.Request) {
	var spec control.WorkloadSpec
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&spec); err != nil {
		answer(w, http.StatusBadRequest, failure{"request: " + err.Error()})
		return
	}
	peer := r.Context().Value(peerKey{}).(control.Peer) // admit has seen to it
	spec.PID = peer.PID
	reg, err := s.plane.Register(spec, &peer.UID)
	if err != nil {
		answer(w, statusOf(err), failure{err.Error()})
		return
	}
	defer func() {
		if !s.ending.Load() && s.plane.Leave(reg) {
			s.log("%s has left", reg.ID)
		}
	}()
	if spec.Token != "" {
		s.log("%s is back at %s", reg.ID, reg.IP)
	} else {
		s.log("%s has joined at %s", reg.ID, reg.IP)
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := http.NewResponseController(w)
	e := json.NewEncoder(w)
	if e.Encode(Event{Registration: reg}) != nil || out.Flush() != nil {
		return
	}
	local := reg.Local
	for {
		_, _, newer := s.plane.Changed()
		now, there := s.plane.Local(reg.ID)
		if !there {
			return // deregistered by other means
		}
		if !maps.Equal(now, local) {
			if e.Encode(Event{Local: now}) != nil || out.Flush() != nil {
				return
			}
			local = now
		}
		select {
		case <-newer:
		case <-r.Context().Done():
			return
		}
	}
}

func statusOf(err error) int {
	switch {
	case errors.Is(err, control.ErrBadSpec):
		return http.StatusUnprocessableEntity
	case errors.Is(err, control.ErrTaken):
		return http.StatusConflict
	case errors.Is(err, control.ErrFull):
		return http.StatusInsufficientStorage
	case errors.Is(err, control.ErrNotReady):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Ready bool `json:"ready"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		answer(w, http.StatusBadRequest, failure{"request: " + err.Error()})
		return
	}
	s.found(w, s.plane.SetReady(r.PathValue("namespace")+"/"+r.PathValue("name"), body.Ready))
}

func (s *Server) deregister(w http.ResponseWriter, r *http.Request) {
	s.found(w, s.plane.Deregister(r.PathValue("namespace")+"/"+r.PathValue("name")))
}

func (s *Server) found(w http.ResponseWriter, ok bool) {
	if !ok {
		answer(w, http.StatusNotFound, failure{"there is no such workload"})
		return
	}
	answer(w, http.StatusOK, struct{}{})
}
