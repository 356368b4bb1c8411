package identity

import (
	"errors"
	"strconv"
	"time"
)

// Proof is how a caller proved who it is.
type Proof uint8

// The proofs.
const (
	JoinToken    Proof = iota // a token that the control plane issued at registration
	PeerCreds                 // the user id of the process at the other end of a unix socket
	Certificate               // a client certificate of our CA
	AccountToken              // a service account's token, which the cluster's API server knows
)

// String names the proof in logs.
func (p Proof) String() string {
	return [...]string{"join token", "unix peer", "certificate", "account token"}[p]
}

// ErrRefused is wrapped by errors that are the credential's fault: showing it
// again is no use.
var ErrRefused = errors.New("the credential was refused")

// Caller is an authenticated peer of the control plane. It is made by the
// control plane from its own records; nothing in it was said by the peer,
// except what the proof covers. Immutable.
type Caller struct {
	ID       ID // zero with PeerCreds
	Proof    Proof
	Workload string    // namespace/name of the one workload it is; empty: any workload of ID, or of UID with PeerCreds
	UID      uint32    // PeerCreds only
	Expires  time.Time // the credential's end; zero: none
	// Revoked is closed when the credential ends early. nil: never.
	Revoked <-chan struct{}
}

// Key under which limits for this caller are counted.
func (c *Caller) Key() string {
	switch {
	case c.Workload != "":
		return c.ID.String() + " " + c.Workload
	case c.Proof == PeerCreds:
		return "uid " + strconv.FormatUint(uint64(c.UID), 10)
	}
	return c.ID.String()
}
