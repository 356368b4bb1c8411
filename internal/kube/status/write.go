package status

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/source/kube"
)

const (
	gather = 100 * time.Millisecond // changes are gathered that long
	// relations is how often at most the relations between objects, which cost as
	// much as the mesh is large, are worked out for what Istio's objects are told.
	relations = 5 * time.Second
	again     = 2 * time.Second // after a failure
	perSecond = 50              // objects that are read, and perhaps written
	burst     = 100
)

// Writer writes status. All fields but Tell must be set.
type Writer struct {
	Client     dynamic.Interface
	Controller string // name under which we are a controller of routes
	// Read is the newest state, nil before the first, and a channel that is
	// closed when there is a newer one.
	Read func() (*control.Reading, <-chan struct{})
	Tell func(format string, args ...any)

	bound flowcontrol.RateLimiter
	done  map[string]string // what was last seen to stand there
	told  string
}

// Run writes what differs until ctx ends.
func (w *Writer) Run(ctx context.Context) error {
	w.bound, w.done = flowcontrol.NewTokenBucketRateLimiter(perSecond, burst), map[string]string{}
	var related time.Time
	var last []want
	for {
		r, newer := w.Read()
		var next <-chan time.Time // when there is something to do without a change
		if r != nil {
			if rest := relations - time.Since(related); rest <= 0 {
				related, last = time.Now(), istio(r)
			} else {
				next = time.After(rest)
			}
			if !w.step(ctx, append(wanted(r, w.Controller), last...)) {
				next = time.After(again)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-newer:
			if !sleep(ctx, gather) {
				return ctx.Err()
			}
		case <-next:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// step brings all to what is wanted; false: something failed.
func (w *Writer) step(ctx context.Context, all []want) bool {
	now := make(map[string]string, len(all))
	good := true
	for i := range all {
		x := &all[i]
		o := x.object
		id := o.APIVersion + " " + o.Kind + " " + o.Namespace + "/" + o.Name
		text, err := json.Marshal(x.status)
		sum := o.Created.String() + string(text)
		if err == nil && w.done[id] != sum {
			err = w.write(ctx, x)
		}
		switch {
		case ctx.Err() != nil:
			return false
		case err == nil:
			now[id] = sum
		default:
			good = false
			if text := fmt.Sprintf("status of %s %s/%s: %v", o.Kind, o.Namespace, o.Name, err); text != w.told && !apierrors.IsConflict(err) {
				w.told = text
				w.Tell("%s; it is tried again", text)
			}
		}
	}
	w.done = now
	return good
}

// write one object's status, if another stands there.
func (w *Writer) write(ctx context.Context, x *want) error {
	at, ok := kube.Resource(x.object.APIVersion, x.object.Kind)
	if !ok {
		return fmt.Errorf("BUG: %s is not read", x.object.APIVersion)
	}
	if err := w.bound.Wait(ctx); err != nil {
		return err
	}
	var r dynamic.ResourceInterface = w.Client.Resource(at)
	if x.object.Kind != "GatewayClass" {
		r = w.Client.Resource(at).Namespace(x.object.Namespace)
	}
	o, err := r.Get(ctx, x.object.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !merge(o, x, w.Controller, time.Now()) {
		return nil
	}
	if _, err = r.UpdateStatus(ctx, o, metav1.UpdateOptions{FieldManager: "tulle-status"}); apierrors.IsNotFound(err) {
		return nil // it is gone, or its definition has no status
	}
	return err
}

// merge puts what is wanted into an object, and reports whether that changes it.
// What others wrote stays: entries of a shared list, conditions of other types.
func merge(o *unstructured.Unstructured, x *want, controller string, now time.Time) bool {
	old, _ := o.Object["status"].(map[string]any)
	fresh := map[string]any{}
	for k, v := range old {
		fresh[k] = v
	}
	for k, v := range x.status {
		prior, _ := old[k].([]any)
		list, ok := v.([]any)
		switch {
		case !ok:
			fresh[k] = v
		case k == "conditions":
			fresh[k] = dated(prior, list, now, true)
		case k == x.list:
			fresh[k] = entries(prior, list, controller, now)
		case k == "listeners":
			fresh[k] = inner(prior, list, now, func(a, b map[string]any) bool { return a["name"] == b["name"] })
		default:
			fresh[k] = list
		}
		if list, ok := fresh[k].([]any); ok && len(list) == 0 && prior == nil && k != x.list {
			delete(fresh, k)
		}
	}
	if x.list != "" && old == nil && len(fresh[x.list].([]any)) == 0 {
		return false
	}
	if same(old, fresh) {
		return false
	}
	o.Object["status"] = fresh
	return true
}

// same compares as JSON: numbers of ours and of the decoder are of other types.
func same(a, b map[string]any) bool {
	if a == nil {
		a = map[string]any{}
	}
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// fleeting conditions are ours, and are there only while they hold.
var fleeting = map[any]bool{"InsecureFrontendValidationMode": true}

// dated gives conditions the time since when they stand. others: those of types
// that are not ours stay, at their places.
func dated(old, fresh []any, now time.Time, others bool) []any {
	var out []any
	mine := map[any]map[string]any{}
	var order []any
	for _, f := range fresh {
		c := clone(f)
		c["lastTransitionTime"] = now.UTC().Format(time.RFC3339)
		mine[c["type"]] = c
		order = append(order, c["type"])
	}
	for _, p := range old {
		before, _ := p.(map[string]any)
		c := mine[before["type"]]
		switch {
		case c == nil && others && !fleeting[before["type"]]:
			out = append(out, before)
		case c != nil:
			if c["status"] == before["status"] && before["lastTransitionTime"] != nil {
				c["lastTransitionTime"] = before["lastTransitionTime"]
			}
			out = append(out, c)
			delete(mine, before["type"])
		}
	}
	for _, t := range order {
		if c := mine[t]; c != nil {
			out = append(out, c)
		}
	}
	return out
}

// inner dates the conditions of a list's entries.
func inner(old, fresh []any, now time.Time, alike func(a, b map[string]any) bool) []any {
	out := []any{}
	for _, f := range fresh {
		e := clone(f)
		var before []any
		for _, p := range old {
			if m, ok := p.(map[string]any); ok && alike(m, e) {
				before, _ = m["conditions"].([]any)
			}
		}
		list, _ := e["conditions"].([]any)
		e["conditions"] = dated(before, list, now, false)
		out = append(out, e)
	}
	return out
}

// entries puts ours in a list in which other controllers have theirs.
func entries(old, fresh []any, controller string, now time.Time) []any {
	field := func(m map[string]any) any {
		if r, ok := m["parentRef"]; ok {
			return r
		}
		return m["ancestorRef"]
	}
	mine := inner(old, fresh, now, func(a, b map[string]any) bool {
		x, _ := json.Marshal(field(a))
		y, _ := json.Marshal(field(b))
		return a["controllerName"] == b["controllerName"] && string(x) == string(y)
	})
	out := []any{}
	for _, p := range old {
		if m, ok := p.(map[string]any); ok && m["controllerName"] != controller {
			out = append(out, m)
		}
	}
	return append(out, mine...)
}

func clone(v any) map[string]any {
	out := map[string]any{}
	m, _ := v.(map[string]any)
	for k, x := range m {
		out[k] = x
	}
	return out
}
