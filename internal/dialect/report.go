package dialect

import (
	"fmt"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// MaxNotices of one object. A hostile object with a million unknown fields
// gets this many notices and one that says so.
const MaxNotices = 100

// Report collects the notices about one object. Not for concurrent use.
type Report struct {
	Object  *source.Object
	Notices []model.Notice
	errors  int
}

// Add a notice about the field at path; an empty path is the object.
func (r *Report) Add(sev model.Severity, reason model.Reason, path, format string, args ...any) {
	if sev == model.Error {
		r.errors++
	}
	switch n := len(r.Notices); {
	case n == MaxNotices:
		r.Notices = append(r.Notices, model.Notice{
			Severity: sev, Reason: reason, Origin: r.Object.Origin(""),
			Text: fmt.Sprintf("more than %d notices about this object; the rest is left out", MaxNotices),
		})
		return
	case n > MaxNotices:
		if sev == model.Error {
			r.Notices[MaxNotices].Severity = sev
		}
		return
	}
	r.Notices = append(r.Notices, model.Notice{
		Severity: sev, Reason: reason, Origin: r.Object.Origin(path), Text: fmt.Sprintf(format, args...),
	})
}

// Invalid says that a value breaks the API's rules; what it belongs to is not
// in effect.
func (r *Report) Invalid(path, format string, args ...any) {
	r.Add(model.Error, model.Invalid, path, format, args...)
}

// Doubtful says that a value is in effect, but perhaps not as meant.
func (r *Report) Doubtful(path, format string, args ...any) {
	r.Add(model.Warning, model.Invalid, path, format, args...)
}

// Unsupported says that the API has the field and Tulle does not act on it.
func (r *Report) Unsupported(path, format string, args ...any) {
	r.Add(model.Warning, model.Unsupported, path, format, args...)
}

// Unknown says that the API does not have the field; hint may be empty.
func (r *Report) Unknown(sev model.Severity, path, hint string) {
	text := "the API has no such field: ignored"
	if sev == model.Error {
		text = "the API has no such field"
	}
	if hint != "" {
		text += "; is " + hint + " meant?"
	}
	r.Add(sev, model.UnknownField, path, "%s", text)
}

// Errors is the number of Error notices so far.
func (r *Report) Errors() int { return r.errors }

// Nearest gives the candidate that was probably meant by a misspelt word, or
// "".
func Nearest(word string, candidates []string) string {
	best, limit := "", 1+len(word)/4
	for _, c := range candidates {
		if d := distance(word, c, limit); d <= limit && (best == "" || d < limit) {
			best, limit = c, d
		}
	}
	return best
}

// distance is the edit distance without regard to case, underscores and
// dashes; above limit any larger number.
func distance(a, b string, limit int) int {
	a, b = fold(a), fold(b)
	if a == b {
		return 0
	}
	if len(a) > 64 || len(b) > 64 || len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost = 1 + min(diag, row[j], row[j+1])
			}
			diag, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

func fold(s string) string {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		c := s[i]
		if c == '_' || c == '-' {
			continue
		}
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		out = append(out, c)
	}
	return string(out)
}
