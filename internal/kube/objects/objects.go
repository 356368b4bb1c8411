// Package objects follows some objects of a cluster: those of one kind, in one
// namespace or all, perhaps of one name.
//
// In: a REST client. Out: the objects as they are, and a word when they change.
// What does not belong here: the user's objects, which are a snapshot
// (source/kube), and what is done with any.
package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// Kind says which objects. Client and Resource must be set.
type Kind struct {
	Client    rest.Interface // of the resource's group
	Resource  string         // plural
	Namespace string         // empty: all
	Name      string         // empty: all
	// Tell hears why they cannot be read, once per reason; nil: nobody does.
	Tell func(error)
}

// Object is what the API server holds.
type Object interface {
	runtime.Object
	metav1.Object
}

// Set is objects of a Kind, kept like the API server's until its context ends.
// The objects are shared: they must not be changed. Safe for concurrent use.
type Set[T Object] struct {
	informer cache.SharedIndexInformer
	err      atomic.Pointer[error]
}

// Follow begins to follow. changed is called after every change, and once when
// all were listed; never concurrently. trim may be nil; it takes out of an
// object what nobody reads. Objects may be trimmed before the Set is returned,
// never changed after.
func Follow[T Object](ctx context.Context, k Kind, example T, trim func(T), changed func()) (*Set[T], error) {
	selector := fields.Everything()
	if k.Name != "" {
		selector = fields.OneTermEqualSelector("metadata.name", k.Name)
	}
	lw := cache.NewListWatchFromClient(k.Client, k.Resource, k.Namespace, selector)
	s := &Set[T]{informer: cache.NewSharedIndexInformerWithOptions(lw, example, cache.SharedIndexInformerOptions{})}
	err := s.informer.SetTransform(func(obj any) (any, error) {
		if o, ok := obj.(T); ok {
			o.SetManagedFields(nil)
			if trim != nil {
				trim(o)
			}
		}
		return obj, nil
	})
	if err == nil {
		err = s.informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
			if ctx.Err() != nil || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) || errors.Is(err, io.EOF) {
				return // the end, or an ordinary new beginning
			}
			err = fmt.Errorf("read the cluster's %s: %w", k.Resource, err)
			if old := s.err.Swap(&err); k.Tell != nil && (old == nil || (*old).Error() != err.Error()) {
				k.Tell(err)
			}
		})
	}
	note := func() { changed() }
	var registered cache.ResourceEventHandlerRegistration
	if err == nil {
		registered, err = s.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { note() }, UpdateFunc: func(_, _ any) { note() }, DeleteFunc: func(any) { note() },
		})
	}
	if err != nil {
		return nil, fmt.Errorf("follow %s: %w", k.Resource, err)
	}
	ctx = klog.NewContext(ctx, klog.Logger{}) // what it would log, Err tells
	go s.informer.RunWithContext(ctx)
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), registered.HasSynced) {
			note()
		}
	}()
	return s, nil
}

// Listed reports whether all objects were listed.
func (s *Set[T]) Listed() bool { return s.informer.HasSynced() }

// Wait until all objects were listed. The error says why they cannot be.
func (s *Set[T]) Wait(ctx context.Context) error {
	if cache.WaitForCacheSync(ctx.Done(), s.informer.HasSynced) {
		return nil
	}
	if err := s.err.Load(); err != nil {
		return *err
	}
	return ctx.Err()
}

// Get one; false when there is none.
func (s *Set[T]) Get(namespace, name string) (T, bool) {
	key := name
	if namespace != "" {
		key = namespace + "/" + name
	}
	o, ok, err := s.informer.GetStore().GetByKey(key)
	if !ok || err != nil {
		var none T
		return none, false
	}
	t, ok := o.(T)
	return t, ok
}

// All of them, in no order.
func (s *Set[T]) All() []T {
	var out []T
	for _, o := range s.informer.GetStore().List() {
		if t, ok := o.(T); ok {
			out = append(out, t)
		}
	}
	return out
}

// Flag is raised by many and lowered by one, who waits for it.
type Flag chan struct{}

// NewFlag is not raised.
func NewFlag() Flag { return make(chan struct{}, 1) }

// Raise never blocks.
func (f Flag) Raise() {
	select {
	case f <- struct{}{}:
	default:
	}
}
