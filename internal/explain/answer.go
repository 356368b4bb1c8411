package explain

import (
	"fmt"
	"io"
	"strings"
)

// Outcomes of a request.
const (
	Routed      = "routed"
	Redirected  = "redirect"
	Direct      = "direct_response"
	Fault       = "fault"
	NoRoute     = "no_route"
	NoListener  = "no_listener"
	Denied      = "denied"
	Passthrough = "passthrough"
	BlackHole   = "blackhole"
	TLSError    = "tls_error"
)

// Answer is what would happen. Its JSON form is a stable contract.
type Answer struct {
	Outcome       string        `json:"outcome"`
	Status        int           `json:"status"`         // 0: what the destination answers
	ResponseFlags string        `json:"response_flags"` // Envoy's, as in the access log
	Listener      string        `json:"listener"`
	VirtualHost   string        `json:"virtual_host"`
	Route         string        `json:"route"`
	Destinations  []Destination `json:"destinations"`
	Redirect      string        `json:"redirect"` // Location
	Request       Request       `json:"request"`  // as the destination gets it
	Timeout       string        `json:"timeout"`  // empty: none
	Retries       Retries       `json:"retries"`
	Steps         []Step        `json:"steps"`
}

// Destination is one cluster that the request may go to.
type Destination struct {
	Cluster   string `json:"cluster"`
	Weight    uint32 `json:"weight"`    // as configured; 100 for a single one
	Endpoints int    `json:"endpoints"` // that may be picked
	TLS       string `json:"tls"`       // none, istio_mutual, simple, mutual
}

// Request after all rewriting.
type Request struct {
	Authority string            `json:"authority"`
	Path      string            `json:"path"`
	Headers   map[string]string `json:"headers"` // lower-case names
}

// Retries of the route; the zero value is none.
type Retries struct {
	Attempts      int      `json:"attempts,omitempty"` // beyond the first
	On            []string `json:"on,omitempty"`       // Envoy's conditions
	Codes         []int    `json:"codes,omitempty"`
	PerTryTimeout string   `json:"per_try_timeout,omitempty"`
}

// Step is one decision on the way.
type Step struct {
	Proxy   string `json:"proxy"` // namespace/name of the workload or gateway
	Stage   string `json:"stage"`
	Object  string `json:"object"` // Kind ns/name; empty: nothing of the user's
	Field   string `json:"field"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	Verdict string `json:"verdict"`
	Why     string `json:"why"`
}

// Good reports whether the request gets where somebody sent it: routed,
// redirected, answered, or passed through.
func (a *Answer) Good() bool {
	switch a.Outcome {
	case Routed:
		return a.Status == 0
	case Redirected, Direct, Passthrough:
		return true
	}
	return false
}

// Text prints the answer for people: the outcome, then every step.
func (a *Answer) Text(w io.Writer) error {
	var b strings.Builder
	b.WriteString(a.headline() + "\n")
	for _, d := range a.Destinations {
		fmt.Fprintf(&b, "  %d to %s, %d endpoints, tls %s\n", d.Weight, d.Cluster, d.Endpoints, d.TLS)
	}
	if a.Timeout != "" {
		fmt.Fprintf(&b, "  timeout %s\n", a.Timeout)
	}
	if a.Retries.Attempts > 0 {
		fmt.Fprintf(&b, "  %d retries on %s%s\n", a.Retries.Attempts, strings.Join(a.Retries.On, ", "), codes(a.Retries.Codes))
	}
	proxy := ""
	for _, s := range a.Steps {
		if s.Proxy != proxy {
			proxy = s.Proxy
			fmt.Fprintf(&b, "at %s\n", proxy)
		}
		fmt.Fprintf(&b, "  %-12s %-9s %s\n", s.Stage, s.Verdict, s.Why)
		if s.Object != "" {
			fmt.Fprintf(&b, "  %-12s %-9s %s\n", "", "", s.place())
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func codes(cs []int) string {
	if len(cs) == 0 {
		return ""
	}
	return " " + strings.Trim(fmt.Sprint(cs), "[]")
}

func (a *Answer) headline() string {
	s := strings.ReplaceAll(a.Outcome, "_", " ")
	if a.Status != 0 {
		s += fmt.Sprintf(", status %d", a.Status)
	}
	if a.ResponseFlags != "" {
		s += ", response flags " + a.ResponseFlags
	}
	if a.Redirect != "" {
		s += ", to " + a.Redirect
	}
	return s
}

// place is "Kind ns/name field (file:line)".
func (s *Step) place() string {
	out := s.Object
	if s.Field != "" {
		out += " " + s.Field
	}
	if s.File != "" {
		out += fmt.Sprintf(" (%s:%d)", s.File, s.Line)
	}
	return out
}
