// Package source is a snapshot of the user's objects, each with where it came
// from. Its sub-rooms say where snapshots come from: file, kube.
//
// In: nothing. Out: immutable Snapshots that dialects read.
// What does not belong here: what an object means.
package source

import (
	"context"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/model"
)

// Object is one user object, not yet understood.
type Object struct {
	APIVersion  string
	Kind        string
	Namespace   string // "default" when the user named none and the kind is namespaced
	Name        string
	Labels      map[string]string
	Annotations map[string]string
	Created     time.Time
	Generation  int64  // of its spec, counted by an API server; 0: nobody counts
	JSON        []byte // the whole object as JSON, as an API server would hold it
	File        string // as the user gave it; empty when not from a file
	Line        int    // 1-based first line of the object
	Lines       Lines  // nil when not from a file
}

// Lines finds the line of a field of an object. The path is dotted with
// indexes, as spec.http[0].match[1].uri. A path that is not in the text gives
// the line of its nearest parent that is.
type Lines interface {
	Line(path string) int
}

const gatewayAPI = "gateway.networking.k8s.io"

// Origin of the object, or of one of its fields when path is not empty.
func (o *Object) Origin(path string) model.Origin {
	or := model.Origin{Kind: o.Kind, Namespace: o.Namespace, Name: o.Name, Field: path, File: o.File, Line: o.Line, Created: o.Created}
	if o.Kind == "Gateway" && strings.HasPrefix(o.APIVersion, gatewayAPI+"/") { // Istio has one too
		or.Group = gatewayAPI
	}
	if path != "" && o.Lines != nil {
		or.Line = o.Lines.Line(path)
	}
	return or
}

// Snapshot is every object of a source at one moment, in the source's own
// order (for files: path order, then order in the file), and what was wrong
// with the text they came from. Immutable.
type Snapshot struct {
	Objects []*Object
	Notices []model.Notice
}

// Source delivers snapshots. Watch calls emit first with the present state and
// then after every change until ctx ends; it returns only program errors and
// ctx.Err(). emit is never called concurrently.
type Source interface {
	Watch(ctx context.Context, emit func(Snapshot)) error
}

// Describe says what a decoded value of YAML or JSON is, in the user's words.
// The value is not repeated: it may be a secret.
func Describe(v any) string {
	switch v.(type) {
	case nil:
		return "nothing"
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case string:
		return "text"
	case bool:
		return "true or false"
	}
	return "a number"
}
