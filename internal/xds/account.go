package xds

import "time"

// Rate at which one client may ask for names.
const (
	asksPerSecond = 1000
	asksAtOnce    = 5000 // as many as a client that comes back has
)

// account is what streams of one key share. It outlives them until its debt is
// paid, so that who comes back does not start anew. Under the Server's lock.
type account struct {
	streams int
	asks    float64 // owed
	at      time.Time
}

// account of a key, which the caller is to use at once. Idle ones are forgotten
// on the way, two for each that is looked for.
func (s *Server) account(key string) *account {
	looked := 0
	for k, a := range s.perKey {
		if a.streams == 0 && a.owes(time.Now()) == 0 {
			delete(s.perKey, k)
		}
		if looked++; looked == 2 {
			break
		}
	}
	if s.perKey[key] == nil {
		s.perKey[key] = &account{at: time.Now()}
	}
	return s.perKey[key]
}

// owes brings the account to a time.
func (a *account) owes(now time.Time) float64 {
	a.asks = max(0, a.asks-asksPerSecond*now.Sub(a.at).Seconds())
	a.at = now
	return a.asks
}

// charge counts names that were asked for, and says until when that is enough.
func (s *Server) charge(a *account, n int) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	a.asks = a.owes(now) + float64(n)
	if a.asks <= asksAtOnce {
		return now
	}
	return now.Add(time.Duration((a.asks - asksAtOnce) / asksPerSecond * float64(time.Second)))
}
