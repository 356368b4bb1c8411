// Package why records the reasons of decisions while they are made.
//
// In: decision functions in route, cluster, filter and conf take a nil-able
// *Why and tell it what they tried. Out: the steps, read by explain, by the
// access log's detail and by a denial's reason. A nil *Why costs nothing: ask
// On before building a text.
//
// What does not belong here: any decision.
package why

import "fmt"

// Step is one thing that was tried.
type Step struct {
	Stage   string // listener, virtual_host, route, fault, cluster, endpoint, tls, rbac, ...
	Origin  string // origin id of the configuration that decided; may be empty
	Verdict string // matched, no_match, allowed, denied, picked, skipped, ...
	Text    string // plain words
}

// Why collects steps. It is not safe for concurrent use.
type Why struct{ Steps []Step }

// On reports whether anyone listens.
func (w *Why) On() bool { return w != nil }

// Add records a step; format and args make its text.
func (w *Why) Add(stage, origin, verdict, format string, args ...any) {
	if w == nil {
		return
	}
	w.Steps = append(w.Steps, Step{stage, origin, verdict, fmt.Sprintf(format, args...)})
}
