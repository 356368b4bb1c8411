package lease

import (
	"context"
	"errors"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/fake"
)

// TestOneLeads: of two holders one leads; when it ends it has returned before
// Run does, and the other leads without waiting for the Lease to run out.
func TestOneLeads(t *testing.T) {
	client := fake.NewClientset().CoordinationV1()
	began := make(chan string, 2)
	run := func(name string) (end context.CancelFunc, ended <-chan error, left <-chan struct{}) {
		ctx, cancel := context.WithCancel(t.Context())
		l := &Lease{Client: client, Namespace: "n", Name: "leader", Holder: name, Times: Times{Duration: time.Hour, Renew: time.Minute, Retry: time.Millisecond}}
		done, gone := make(chan error, 1), make(chan struct{})
		go func() {
			done <- l.Run(ctx, func(ctx context.Context) {
				began <- name
				<-ctx.Done()
				close(gone)
			})
		}()
		return cancel, done, gone
	}
	endA, endedA, leftA := run("a")
	if who := <-began; who != "a" {
		t.Fatalf("%s leads, and does not run", who)
	}
	endB, endedB, leftB := run("b")
	endA()
	if err := <-endedA; !errors.Is(err, context.Canceled) {
		t.Errorf("a ended with %v", err)
	}
	select {
	case <-leftA:
	default:
		t.Error("Run has returned before what a did as leader")
	}
	if who := <-began; who != "b" { // an hour before the Lease would have run out
		t.Errorf("%s leads after a", who)
	}
	endB()
	<-leftB
	if err := <-endedB; !errors.Is(err, context.Canceled) {
		t.Errorf("b ended with %v", err)
	}
}
