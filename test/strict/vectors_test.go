package strict

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// vector is a case of testdata: bytes of a client, and what must come of them.
type vector struct {
	class, name string
	send        []byte
	want        []string // requests, then perhaps a status or "close"
}

var repeat = regexp.MustCompile(`\{([^{}]*)\*(\d+)\}`)

// unfold makes bytes of a line of testdata.
func unfold(t testing.TB, line string) string {
	t.Helper()
	line = repeat.ReplaceAllStringFunc(line, func(s string) string {
		m := repeat.FindStringSubmatch(s)
		n, _ := strconv.Atoi(m[2])
		return strings.Repeat(m[1], n)
	})
	line = strings.ReplaceAll(line, "|", `\r\n`)
	s, err := strconv.Unquote(`"` + strings.ReplaceAll(line, `"`, `\"`) + `"`)
	if err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return s
}

// vectors reads a file of testdata; its first lines say how.
func vectors(t testing.TB, file string) (all []*vector) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	class := ""
	names := map[string]bool{}
	for n, line := range strings.Split(string(text), "\n") {
		indent := len(line) - len(strings.TrimLeft(line, " "))
		switch {
		case strings.HasPrefix(line, "#"), line == "":
		case indent == 0:
			class, _, _ = strings.Cut(line, ":")
		case indent == 2:
			all = append(all, &vector{class: class, name: line[2:]})
			if key := class + "/" + line[2:]; names[key] {
				t.Fatalf("%s:%d: %s is there twice", file, n+1, key)
			} else {
				names[key] = true
			}
		case strings.HasPrefix(line, "    => "):
			v := all[len(all)-1]
			v.want = append(v.want, line[7:])
		default:
			all[len(all)-1].send = append(all[len(all)-1].send, unfold(t, line[4:])...)
		}
	}
	for _, v := range all {
		if len(v.send) == 0 || len(v.want) == 0 {
			t.Fatalf("%s: %s/%s is not whole", file, v.class, v.name)
		}
	}
	return all
}
