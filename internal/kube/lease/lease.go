// Package lease has one of several replicas do what only one may do: the one
// that holds a Lease.
//
// In: a Lease's name. Out: a function that runs while the Lease is held.
// What does not belong here: what the leader does.
package lease

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

// Times of a Lease. A leader that cannot reach the API server stops before
// another can begin.
type Times struct {
	Duration, Renew, Retry time.Duration
}

// Usual are client-go's own recommendation.
var Usual = Times{Duration: 15 * time.Second, Renew: 10 * time.Second, Retry: 2 * time.Second}

// Lease to be held. All fields but Tell must be set.
type Lease struct {
	Client          coordinationv1.LeasesGetter
	Namespace, Name string
	Holder          string // this replica: its pod's name
	Times           Times
	Tell            func(format string, args ...any)
}

// Run tries to hold the Lease until ctx ends, and runs lead while it does, with
// a context that ends with the Lease; lead must then return. At the end the
// Lease is given back, so that a successor need not wait: it may begin while
// lead is returning, hence what lead writes must bear a second writer. Run
// returns after lead.
func (l *Lease) Run(ctx context.Context, lead func(ctx context.Context)) error {
	ctx = klog.NewContext(ctx, klog.Logger{}) // what it would log, lead and Tell say
	var leading sync.Mutex
	e, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Namespace: l.Namespace, Name: l.Name},
			Client:     l.Client,
			LockConfig: resourcelock.ResourceLockConfig{Identity: l.Holder},
		},
		LeaseDuration: l.Times.Duration, RenewDeadline: l.Times.Renew, RetryPeriod: l.Times.Retry,
		ReleaseOnCancel: true, Name: l.Name,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) {
				leading.Lock()
				defer leading.Unlock()
				if ctx.Err() == nil {
					l.tell("%s leads: it holds the lease %s/%s", l.Holder, l.Namespace, l.Name)
					lead(ctx)
				}
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("lease %s/%s: %w", l.Namespace, l.Name, err)
	}
	for ctx.Err() == nil {
		e.Run(ctx)
	}
	leading.Lock() // lead has returned
	defer leading.Unlock()
	return ctx.Err()
}

func (l *Lease) tell(format string, args ...any) {
	if l.Tell != nil {
		l.Tell(format, args...)
	}
}
