package tokens

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// server answers reviews, and counts them.
type server struct {
	asked  atomic.Int64
	answer func(ctx context.Context, token string) (authv1.TokenReviewStatus, error)
}

func (s *server) Create(ctx context.Context, r *authv1.TokenReview, _ metav1.CreateOptions) (*authv1.TokenReview, error) {
	s.asked.Add(1)
	if len(r.Spec.Audiences) != 1 || r.Spec.Audiences[0] != "istio-ca" {
		return nil, fmt.Errorf("audiences %v", r.Spec.Audiences)
	}
	st, err := s.answer(ctx, r.Spec.Token)
	return &authv1.TokenReview{Status: st}, err
}

func token(exp time.Time) string {
	return "h." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, exp.Unix())) + ".s"
}

func good(user string, extra map[string]authv1.ExtraValue) authv1.TokenReviewStatus {
	return authv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"istio-ca"}, User: authv1.UserInfo{Username: user, Extra: extra}}
}

func TestCaller(t *testing.T) {
	end := time.Now().Add(time.Hour).Truncate(time.Second)
	bound := map[string]authv1.ExtraValue{podName: {"orders-1"}}
	orders := identity.ID{TrustDomain: "mesh.test", Namespace: "shop", Account: "orders"}
	for _, c := range []struct {
		name, token string
		status      authv1.TokenReviewStatus
		want        identity.Caller
		refused     string
	}{
		{"bound to a pod", token(end), good("system:serviceaccount:shop:orders", bound),
			identity.Caller{ID: orders, Proof: identity.AccountToken, Workload: "shop/orders-1", Expires: end}, ""},
		{"bound to nothing, opaque", "x", good("system:serviceaccount:shop:orders", nil), identity.Caller{ID: orders, Proof: identity.AccountToken}, ""},
		{"unknown", "x", authv1.TokenReviewStatus{}, identity.Caller{}, "does not know"},
		{"with a reason", "x", authv1.TokenReviewStatus{Error: "expired"}, identity.Caller{}, "expired"},
		{"other audience", "x", authv1.TokenReviewStatus{Authenticated: true, Audiences: []string{"api"}}, identity.Caller{}, "not for the audience istio-ca"},
		{"an API server that knows no audiences", "x", authv1.TokenReviewStatus{Authenticated: true}, identity.Caller{}, "not for the audience"},
		{"a person", "x", good("jane", nil), identity.Caller{}, "jane is no service account"},
		{"a name that is none", "x", good("system:serviceaccount:shop:a/b", nil), identity.Caller{}, "not allowed"},
		{"too long", strings.Repeat("x", maxToken+1), authv1.TokenReviewStatus{}, identity.Caller{}, "bytes"},
		{"empty", "", authv1.TokenReviewStatus{}, identity.Caller{}, "0 bytes"},
	} {
		s := &server{answer: func(context.Context, string) (authv1.TokenReviewStatus, error) { return c.status, nil }}
		got, err := New(s, "istio-ca", "mesh.test").Caller(t.Context(), c.token)
		switch {
		case c.refused != "":
			if !errors.Is(err, identity.ErrRefused) || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%s: %v, want it refused with %q", c.name, err, c.refused)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case *got != c.want:
			t.Errorf("%s: %+v", c.name, *got)
		}
	}
}

// One review serves all who show the token at the same time and for a while;
// a failure to ask is not remembered.
func TestAnswersAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		fail := errors.New("unreachable")
		s := &server{answer: func(context.Context, string) (authv1.TokenReviewStatus, error) {
			<-hold
			return good("system:serviceaccount:shop:orders", nil), fail
		}}
		r := New(s, "istio-ca", "mesh.test")
		tok := token(time.Now().Add(90 * time.Second))
		ended := make(chan error)
		call := func(ctx context.Context) { _, err := r.Caller(ctx, tok); ended <- err }
		first, cancel := context.WithCancel(t.Context())
		go call(first)
		synctest.Wait()
		for range 9 {
			go call(t.Context())
		}
		synctest.Wait()
		cancel() // the first goes; the review goes on for the others
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		fail = nil
		close(hold)
		for range 9 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		expect := func(what string, want int64) {
			t.Helper()
			go call(t.Context())
			if err := <-ended; err != nil && !errors.Is(err, fail) {
				t.Errorf("%s: %v", what, err)
			}
			if n := s.asked.Load(); n != want {
				t.Errorf("%s: %d reviews, want %d", what, n, want)
			}
		}
		expect("remembered", 1)
		time.Sleep(goodFor)
		expect("after a minute", 2)
		time.Sleep(31 * time.Second)
		expect("the token has ended", 3)
		fail = errors.New("unreachable")
		time.Sleep(goodFor)
		expect("nobody answers", 4)
		expect("and it is asked again", 5)
	})
}

// What is refused is remembered for a moment only, and the number of answers is
// bounded.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{answer: func(context.Context, string) (authv1.TokenReviewStatus, error) {
			return authv1.TokenReviewStatus{}, nil
		}}
		r := New(s, "istio-ca", "mesh.test")
		for range 3 {
			r.Caller(t.Context(), "bad")
		}
		if n := s.asked.Load(); n != 1 {
			t.Errorf("%d reviews of one bad token", n)
		}
		time.Sleep(badFor)
		r.Caller(t.Context(), "bad")
		if n := s.asked.Load(); n != 2 {
			t.Errorf("a bad token is bad for ever: %d reviews", n)
		}
		for i := range maxKept + 10 {
			r.Caller(t.Context(), fmt.Sprint(i))
		}
		if n := len(r.kept); n > maxKept {
			t.Errorf("%d answers are kept", n)
		}
	})
}
