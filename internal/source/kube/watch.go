package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// gather is how long changes are gathered before a snapshot is made of them.
const gather = 50 * time.Millisecond

// longestPause between two attempts to read a kind that cannot be read.
const longestPause = 5 * time.Second

// Watcher is a source.Source over a cluster. Objects that did not change keep
// their pointers from snapshot to snapshot.
type Watcher struct {
	Config *rest.Config
	// Log takes one message when the API server cannot be read, and when it
	// can again; nil: they are dropped. Not called concurrently.
	Log func(format string, args ...any)
}

var _ source.Source = (*Watcher)(nil)

// Watch implements source.Source. What the API server does not give at the
// start is asked for until it does, and then the first snapshot is emitted.
func (w *Watcher) Watch(ctx context.Context, emit func(source.Snapshot)) error {
	ctx, cancel := context.WithCancel(klog.NewContext(ctx, klog.Logger{})) // what it would log we tell
	defer cancel()
	dirty := make(chan struct{}, 1)
	changed := func() {
		select {
		case dirty <- struct{}{}:
		default:
		}
	}
	f := &following{changed: changed, kinds: map[*resource]*kind{}, crds: definitions{changed: changed}}
	config := unlimited(w.Config)
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return listening{rt, f.reached} })
	var err error
	if f.client, err = dynamic.NewForConfig(config); err != nil {
		return fmt.Errorf("read the cluster: %w", err)
	}
	defer f.stop()
	f.reflect(ctx, crdResource, "", &f.crds, f.crds.heard)
	var before []model.Notice
	for {
		f.follow(ctx)
		snap, whole := f.snapshot()
		w.tell(before, snap.Notices)
		before = snap.Notices
		if whole {
			emit(snap)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-dirty:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(gather):
		}
		select { // what came meanwhile is in the state that is read next
		case <-dirty:
		default:
		}
	}
}

// tell what is new.
func (w *Watcher) tell(before, now []model.Notice) {
	if w.Log == nil {
		return
	}
	for _, n := range now {
		if !slices.Contains(before, n) {
			w.Log("%s", n.Text)
		}
	}
	if len(before) > 0 && len(now) == 0 {
		w.Log("the cluster can be read again")
	}
}

// unlimited: the API server has a better idea of what it can bear than a fixed
// rate of ours.
func unlimited(c *rest.Config) *rest.Config {
	c = rest.CopyConfig(c)
	c.QPS = -1
	return c
}

// following is what one call of Watch follows.
type following struct {
	client  dynamic.Interface
	changed func()
	crds    definitions
	kinds   map[*resource]*kind

	mu      sync.Mutex
	silence error // why the API server cannot be reached, nil when it can
}

// listening is a transport that tells whether requests are answered at all.
// Above it that cannot be seen: client-go takes a connection that ends without
// an answer for a watch without events.
type listening struct {
	http.RoundTripper
	reached func(error)
}

func (l listening) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := l.RoundTripper.RoundTrip(r)
	if err == nil || r.Context().Err() == nil {
		l.reached(err)
	}
	return answer, err
}

// reached tells how the last request went.
func (f *following) reached(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if (err == nil) != (f.silence == nil) {
		f.silence = err
		f.changed()
	}
}

// kind is a resource that is being followed, in the version that the API
// server serves best.
type kind struct {
	*store
	version string
	stop    context.CancelFunc
	ended   <-chan struct{}
}

// follow starts what the cluster has and ends what it has no longer.
func (f *following) follow(ctx context.Context) {
	served, listed, _ := f.crds.state()
	for _, r := range resources {
		version := r.versions[0]
		if r.custom {
			if !listed {
				continue
			}
			version = r.best(served[r.String()])
		}
		k := f.kinds[r]
		if k != nil && k.version != version {
			k.end()
			delete(f.kinds, r)
			k = nil
		}
		if k == nil && version != "" {
			s := newStore(r, f.changed)
			stop, ended := f.reflect(ctx, r.at(version), r.fields, s, s.heard)
			f.kinds[r] = &kind{store: s, version: version, stop: stop, ended: ended}
		}
	}
}

func (k *kind) end() {
	k.stop()
	<-k.ended
}

func (f *following) stop() {
	for _, k := range f.kinds {
		k.end()
	}
}

// reflect keeps a store like the API server's objects until stop. heard is
// told how every request went.
func (f *following) reflect(ctx context.Context, at schema.GroupVersionResource, fields string, into cache.ReflectorStore, heard func(error)) (stop context.CancelFunc, ended <-chan struct{}) {
	ctx, stop = context.WithCancel(ctx)
	client := f.client.Resource(at)
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = fields
			list, err := client.List(ctx, o)
			told(ctx, heard, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = fields
			events, err := client.Watch(ctx, o)
			told(ctx, heard, err)
			return events, err
		},
	}
	reflector := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, f.client),
		&unstructured.Unstructured{}, into, cache.ReflectorOptions{
			Name: at.String(), TypeDescription: at.String(), Logger: new(klog.Logger),
			Backoff: &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 6, Cap: longestPause},
		})
	done := make(chan struct{})
	go func() {
		defer close(done)
		reflector.RunWithContext(ctx)
	}()
	return stop, done
}

// told hands on what the API server refuses. Not reaching it is told by
// listening, and some refusals a reflector expects and answers by asking
// differently.
func told(ctx context.Context, heard func(error), err error) {
	var status apierrors.APIStatus
	switch {
	case ctx.Err() != nil || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || apierrors.IsInvalid(err):
	case apierrors.IsForbidden(err):
		heard(forbidden(err))
	case err == nil || errors.As(err, &status):
		heard(err)
	}
}

// forbidden is the same for every kind and verb, so that it is told once: a
// reflector tries to watch and to list in turn.
func forbidden(err error) error {
	_, text, _ := strings.Cut(err.Error(), "forbidden: ")
	if user, _, ok := strings.Cut(text, " cannot "); ok {
		return fmt.Errorf("forbidden: %s cannot list and watch them", user)
	}
	return err
}

// snapshot of what is known; whole when every kind was listed.
func (f *following) snapshot() (snap source.Snapshot, whole bool) {
	_, whole, err := f.crds.state()
	var failed failures
	failed.add("customresourcedefinitions.apiextensions.k8s.io", err)
	for _, r := range resources {
		k := f.kinds[r]
		if k == nil {
			continue
		}
		objects, listed, err := k.state()
		snap.Objects = append(snap.Objects, objects...)
		whole = whole && listed
		failed.add(r.String(), err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	snap.Notices = failed.notices(f.silence, whole)
	return snap, whole
}

// failures are resources that cannot be read, by reason.
type failures struct {
	reasons []string
	of      map[string][]string
}

func (f *failures) add(resource string, err error) {
	if err == nil {
		return
	}
	reason := err.Error()
	if f.of == nil {
		f.of = map[string][]string{}
	}
	if f.of[reason] == nil {
		f.reasons = append(f.reasons, reason)
	}
	f.of[reason] = append(f.of[reason], resource)
}

func (f *failures) notices(silence error, whole bool) []model.Notice {
	then := "what was last known stays in effect"
	if !whole {
		then = "nothing is served before all was read"
	}
	var out []model.Notice
	tell := func(format string, args ...any) {
		out = append(out, model.Notice{Severity: model.Error, Reason: model.Unreadable, Text: fmt.Sprintf(format, args...)})
	}
	if silence != nil {
		tell("the cluster's API server cannot be reached (%v); %s", silence, then)
	}
	for _, reason := range f.reasons {
		tell("cannot read %s from the cluster (%s); %s", strings.Join(f.of[reason], ", "), reason, then)
	}
	return out
}
