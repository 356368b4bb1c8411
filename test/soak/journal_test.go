package soak

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// logFormat of the proxies: what tells why something ended.
const logFormat = `%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" ` +
	`%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL% in=%BYTES_RECEIVED% out=%BYTES_SENT% %DURATION%ms %UPSTREAM_CLUSTER% %UPSTREAM_HOST% from %DOWNSTREAM_REMOTE_ADDRESS%` + "\n"

// journal is what happened, by the clock: what was done to the mesh, and what
// the proxies' access logs have of requests that did not go well.
type journal struct {
	begin time.Time

	mu    sync.Mutex
	notes []note // done to the mesh
	lines []note // of access logs
	lost  int    // lines beyond maxLines
}

type note struct {
	at   time.Time
	what string
}

const maxLines = 20_000

func (j *journal) note(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.notes = append(j.notes, note{time.Now(), fmt.Sprintf(format, args...)})
}

// since is a time as the journal tells it.
func (j *journal) since(t time.Time) string { return fmt.Sprintf("%+.3fs", t.Sub(j.begin).Seconds()) }

// logs has a process write its access log into the journal.
func (j *journal) logs(name string) func(*exec.Cmd) {
	return func(c *exec.Cmd) { c.Stdout = &logged{j: j, name: name} }
}

// around are the notes and lines within some time of a moment, of each the n
// nearest to it.
func (j *journal) around(at time.Time, span time.Duration, n int) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var b strings.Builder
	for _, all := range [][]note{j.notes, j.lines} {
		var near []note
		for _, x := range all {
			if x.at.Sub(at).Abs() < span {
				near = append(near, x)
			}
		}
		slices.SortStableFunc(near, func(x, y note) int { return cmp.Compare(x.at.Sub(at).Abs(), y.at.Sub(at).Abs()) })
		near = near[:min(n, len(near))]
		slices.SortStableFunc(near, func(x, y note) int { return x.at.Compare(y.at) })
		for _, x := range near {
			fmt.Fprintf(&b, "\n      %s %s", j.since(x.at), x.what)
		}
	}
	return b.String()
}

// logged takes a process's access log, and keeps what did not go well.
type logged struct {
	j    *journal
	name string
	rest []byte
}

var _ io.Writer = (*logged)(nil)

// Write implements io.Writer; exec calls it from one goroutine.
func (l *logged) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			return len(p), nil
		}
		l.rest = rest
		if well(string(line)) {
			continue
		}
		l.j.mu.Lock()
		if len(l.j.lines) < maxLines {
			l.j.lines = append(l.j.lines, note{time.Now(), l.name + ": " + string(line)})
		} else {
			l.j.lost++
		}
		l.j.mu.Unlock()
	}
}

// well reports whether a line tells of nothing but a success, or a quitter.
func well(line string) bool {
	f := strings.Fields(line)
	if strings.Contains(line, " "+quit+" ") {
		return true
	}
	return len(f) > 1 && f[1] == "-" && (f[0] == "0" || f[0][0] == '1' || f[0][0] == '2')
}
