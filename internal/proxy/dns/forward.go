package dns

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Patience with other resolvers: with one, and in all.
const (
	askOne = 2 * time.Second
	askAll = 5 * time.Second
)

var errOther = errors.New("an answer to another question")

// forward asks the other resolvers, in order, and returns what the first says
// that answers at all.
func (s *Server) forward(q *question, network string) []byte {
	end := time.Now().Add(askAll)
	for _, to := range s.o.Resolvers() {
		limit := time.Now().Add(askOne)
		if limit.After(end) {
			limit = end
		}
		out, err := ask(q, network, to, limit)
		if err == nil {
			s.forwarded.Add(1)
			return out
		}
		s.o.Log.Debug("resolver does not answer", "resolver", to, "error", err)
		if !time.Now().Before(end) {
			break
		}
	}
	return s.fail(q)
}

// ask puts the question, as it came but for its number, to one resolver.
func ask(q *question, network string, to netip.AddrPort, end time.Time) ([]byte, error) {
	d := net.Dialer{Deadline: end}
	c, err := d.Dial(network, to.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(end)
	out := append([]byte(nil), q.raw...)
	rand.Read(out[:2]) // so that nobody can guess it from the program's
	if network == "tcp" {
		err = writeMessage(c, out)
	} else {
		_, err = c.Write(out)
	}
	if err != nil {
		return nil, err
	}
	id := binary.BigEndian.Uint16(out)
	b := make([]byte, 4096)
	for {
		var answer []byte
		if network == "tcp" {
			answer, err = readMessage(c)
		} else {
			var n int
			n, err = c.Read(b)
			answer = b[:n]
		}
		if err != nil {
			return nil, err
		}
		if answers(answer, id, q) {
			binary.BigEndian.PutUint16(answer, q.header.ID)
			return answer, nil
		}
		if network == "tcp" {
			return nil, errOther
		}
	}
}

// answers reports whether a message is the answer to q that was asked as id.
func answers(b []byte, id uint16, q *question) bool {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || !h.Response || h.ID != id {
		return false
	}
	got, err := p.Question()
	if errors.Is(err, dnsmessage.ErrSectionDone) {
		return h.RCode != dnsmessage.RCodeSuccess // refusals may leave it out
	}
	return err == nil && got.Type == q.q.Type && got.Class == q.q.Class && strings.EqualFold(got.Name.String(), q.q.Name.String())
}

// System returns the resolvers that a resolv.conf names, the file being looked
// at again every few seconds. Without any it is this machine's port 53, as the
// C library does.
func System(path string) func() []netip.AddrPort {
	var mu sync.Mutex
	var list []netip.AddrPort
	var looked, changed time.Time
	return func() []netip.AddrPort {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(looked) < 5*time.Second {
			return list
		}
		looked = time.Now()
		st, err := os.Stat(path)
		if err == nil && st.ModTime().Equal(changed) {
			return list
		}
		var text []byte
		if err == nil {
			changed = st.ModTime()
			text, _ = os.ReadFile(path)
		}
		list = resolvers(string(text))
		return list
	}
}

// maxResolvers is how many the C library looks at.
const maxResolvers = 3

func resolvers(text string) []netip.AddrPort {
	var out []netip.AddrPort
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" || len(out) == maxResolvers {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, netip.AddrPortFrom(a, 53))
		}
	}
	if len(out) == 0 {
		out = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)}
	}
	return out
}
