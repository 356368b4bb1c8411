package tokens

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// Bounds.
const (
	maxToken  = 16 << 10         // bytes
	maxKept   = 20_000           // answers that are remembered
	goodFor   = time.Minute      // a good answer; a pod that goes ends its streams by itself
	badFor    = 2 * time.Second  // a bad one, so that a loop of wrong calls costs the API server little
	atOnce    = 32               // reviews under way
	reviewFor = 10 * time.Second // one review
)

// Creator asks for one review: the API server's TokenReviews.
type Creator interface {
	Create(ctx context.Context, r *authv1.TokenReview, o metav1.CreateOptions) (*authv1.TokenReview, error)
}

// Reviewer knows whose tokens are. Safe for concurrent use.
type Reviewer struct {
	ask         Creator
	audience    string
	trustDomain string
	now         func() time.Time
	gate        chan struct{}

	mu   sync.Mutex
	kept map[[sha256.Size]byte]*answer
}

// answer is a review under way, or its end. caller, err and until are written
// before done is closed.
type answer struct {
	done   chan struct{}
	caller *identity.Caller
	err    error
	until  time.Time
}

// New makes a Reviewer of tokens for an audience, whose callers get identities
// of a trust domain.
func New(ask Creator, audience, trustDomain string) *Reviewer {
	return &Reviewer{
		ask: ask, audience: audience, trustDomain: trustDomain, now: time.Now,
		gate: make(chan struct{}, atOnce), kept: map[[sha256.Size]byte]*answer{},
	}
}

// Caller is whose token it is. An error that wraps identity.ErrRefused says
// that it is nobody's; any other that nobody could be asked.
func (r *Reviewer) Caller(ctx context.Context, token string) (*identity.Caller, error) {
	if token == "" || len(token) > maxToken {
		return nil, fmt.Errorf("%w: a token of %d bytes", identity.ErrRefused, len(token))
	}
	sum := sha256.Sum256([]byte(token))
	a, mine := r.answer(sum)
	if mine {
		// The review belongs to all who wait for it, and outlives the first of them.
		go func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewFor)
			defer cancel()
			r.review(ctx, token, a)
			if a.until.IsZero() {
				r.forget(sum, a)
			}
			close(a.done)
		}()
	}
	select {
	case <-a.done:
		return a.caller, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// answer that is known or under way, or a new one for the caller to work out.
func (r *Reviewer) answer(sum [sha256.Size]byte) (a *answer, mine bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a = r.kept[sum]; a != nil {
		select {
		case <-a.done:
			if r.now().Before(a.until) {
				return a, false
			}
		default:
			return a, false
		}
	}
	if len(r.kept) >= maxKept {
		r.clear()
	}
	a = &answer{done: make(chan struct{})}
	r.kept[sum] = a
	return a, true
}

// clear makes room: what is stale, and if all is fresh, everything.
func (r *Reviewer) clear() {
	for k, a := range r.kept {
		select {
		case <-a.done:
			if !r.now().Before(a.until) {
				delete(r.kept, k)
			}
		default:
		}
	}
	if len(r.kept) >= maxKept {
		clear(r.kept)
	}
}

func (r *Reviewer) forget(sum [sha256.Size]byte, a *answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept[sum] == a {
		delete(r.kept, sum)
	}
}

// review asks, and fills a. An answer that is not one is not kept.
func (r *Reviewer) review(ctx context.Context, token string, a *answer) {
	select {
	case r.gate <- struct{}{}:
		defer func() { <-r.gate }()
	case <-ctx.Done():
		a.err = fmt.Errorf("review the token: %w", ctx.Err())
		return
	}
	out, err := r.ask.Create(ctx, &authv1.TokenReview{Spec: authv1.TokenReviewSpec{Token: token, Audiences: []string{r.audience}}}, metav1.CreateOptions{})
	if err != nil {
		a.err = fmt.Errorf("review the token: %w", err)
		return
	}
	a.caller, a.err = r.caller(&out.Status, token)
	if a.err != nil {
		a.until = r.now().Add(badFor)
		return
	}
	a.until = r.now().Add(goodFor)
	if e := a.caller.Expires; !e.IsZero() && e.Before(a.until) {
		a.until = e
	}
}

// podName is where the API server says which pod a token is bound to.
const podName = "authentication.kubernetes.io/pod-name"

func (r *Reviewer) caller(s *authv1.TokenReviewStatus, token string) (*identity.Caller, error) {
	refused := func(format string, args ...any) (*identity.Caller, error) {
		return nil, fmt.Errorf("%w: %s", identity.ErrRefused, fmt.Sprintf(format, args...))
	}
	switch {
	case !s.Authenticated && s.Error != "":
		return refused("the API server says: %s", s.Error)
	case !s.Authenticated:
		return refused("the API server does not know the token")
	case !slices.Contains(s.Audiences, r.audience):
		return refused("the token is not for the audience %s", r.audience)
	}
	rest, ok := strings.CutPrefix(s.User.Username, "system:serviceaccount:")
	namespace, account, both := strings.Cut(rest, ":")
	if !ok || !both {
		return refused("%s is no service account", s.User.Username)
	}
	c := &identity.Caller{
		ID:    identity.ID{TrustDomain: r.trustDomain, Namespace: namespace, Account: account},
		Proof: identity.AccountToken, Expires: expiry(token),
	}
	if err := c.ID.Validate(); err != nil {
		return refused("%v", err)
	}
	if pods := s.User.Extra[podName]; len(pods) == 1 && pods[0] != "" {
		c.Workload = namespace + "/" + pods[0]
	}
	return c, nil
}

// expiry of a token that the API server has vouched for (RFC 7519 section
// 4.1.4); zero: it says none.
func expiry(token string) time.Time {
	part := strings.Split(token, ".")
	if len(part) != 3 {
		return time.Time{}
	}
	body, err := base64.RawURLEncoding.DecodeString(part[1])
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Expiry float64 `json:"exp"`
	}
	if json.Unmarshal(body, &claims) != nil || claims.Expiry <= 0 {
		return time.Time{}
	}
	return time.Unix(int64(claims.Expiry), 0)
}
