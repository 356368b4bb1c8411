package file

import (
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/tulle-mesh/tulle/internal/model"
)

// How text from web pages and chat windows breaks, and what to do about it.
const (
	saysBullet     = "a bullet (%c) stands where YAML has a dash: pasted from a page; write \"- \" instead and put the lines that belong to it under its text"
	saysFileName   = "a bare file name (%s) stands between the YAML: pasted with its heading; delete the line or put # before it"
	saysFence      = "a Markdown fence (%s) stands in the YAML: pasted with its markup; keep only what is between the fences"
	saysFullWidth  = "full-width punctuation (%s) where YAML wants %s: typed in or pasted from a Chinese or Japanese text; replace it"
	saysSpace      = "an indentation made of %s: pasted from a page; replace it with spaces"
	saysOneLine    = "everything stands on one line: the line breaks were lost by pasting; copy the text again from its source, with its lines"
	saysGlued      = "no space after the colon of %q: the spaces were lost, probably by pasting; write \"%s: \" with a space"
	saysIndent     = "the indentation was lost, probably by pasting: the lines below %q must be indented by two spaces more than it"
	bullets        = "•◦▪●○■□▫‣⁃∙·–—►▸➢✓"
	fullWidth      = "：，；“”‘’「」｛｝［］（）＂＇＃－"
	openingQuotes  = "“”‘’「＂＇"
	exoticSpaces   = "\u00a0\u3000\u2002\u2003\u2009\u200b\ufeff"
	nameOfTabulars = "non-breaking or full-width spaces"
)

var (
	bareFileName = regexp.MustCompile(`^\s*[\w./-]+\.(?i:ya?ml|json)\s*$`)
	oneLine      = regexp.MustCompile(`apiVersion\s*[:：].*kind\s*[:：]`)
	gluedLine    = regexp.MustCompile(`apiVersion:\S*kind:`)
	gluedColon   = regexp.MustCompile(`^\s*(?:- )?(apiVersion|kind|name|namespace|metadata|spec|hosts?|http|weight|number|protocol):[^\s:/]`)
	wideKey      = regexp.MustCompile(`^\s*(?:- +)*[\w./-]+\s*：`)
	wideValue    = regexp.MustCompile(`(?:[:：\[,，]|^\s*-)\s*([“”‘’「『＂＇［｛])`)
	wideComma    = regexp.MustCompile(`["'\w\]}]\s*([，；｝］])`)
	emptyKey     = regexp.MustCompile(`^(\s*)(metadata|spec|labels|selector|matchLabels|trafficPolicy|destination):\s*(?:#.*)?$`)
	topKey       = regexp.MustCompile(`^(?:apiVersion|kind|metadata|spec|status|data|stringData|type|items)\s*:`)
)

// pasted adds an Error notice for each way in which the text looks pasted, at
// its first line, and reports whether there was any. It is asked only about
// documents that are not good.
func (p *parser) pasted(d doc) bool {
	found := diagnose(string(d.text))
	for _, f := range found {
		p.refuse(d.line+f.line, model.Pasted, "%s", f.text)
	}
	return len(found) > 0
}

type finding struct {
	line int // 0-based
	text string
}

// diagnose lists the first occurrence of each kind of damage, in line order.
func diagnose(text string) []finding {
	var out []finding
	seen := make(map[string]bool)
	add := func(kind string, line int, format string, args ...any) {
		if !seen[kind] {
			seen[kind] = true
			out = append(out, finding{line, fmt.Sprintf(format, args...)})
		}
	}
	lines := strings.Split(text, "\n")
	for i, raw := range lines {
		line := strings.TrimRight(raw, "\r")
		body := strings.TrimLeftFunc(line, unicode.IsSpace)
		if body == "" || body[0] == '#' && !gluedLine.MatchString(body) {
			continue
		}
		r := []rune(body)
		switch {
		case strings.HasPrefix(body, "```") || strings.HasPrefix(body, "~~~"):
			add("fence", i, saysFence, clip(strings.TrimSpace(body)))
		case strings.ContainsRune(bullets, r[0]), r[0] == '*' && len(r) > 1 && r[1] == ' ':
			add("bullet", i, saysBullet, r[0])
		case bareFileName.MatchString(line):
			add("name", i, saysFileName, clip(strings.TrimSpace(line)))
		case oneLine.MatchString(body) && body[0] != '{':
			add("line", i, saysOneLine)
			continue
		}
		if m := gluedColon.FindStringSubmatch(line); m != nil {
			add("glued", i, saysGlued, m[1]+":", m[1])
		}
		if strings.ContainsAny(line[:len(line)-len(strings.TrimLeft(line, " \t"+exoticSpaces))], exoticSpaces) {
			add("space", i, saysSpace, nameOfTabulars)
		}
		code, _, _ := strings.Cut(line, " #")
		switch m, c := wideValue.FindStringSubmatch(code), wideComma.FindStringSubmatch(code); {
		case wideKey.MatchString(code):
			add("wide", i, saysFullWidth, "：", "a colon and a space")
		case m != nil:
			add("wide", i, saysFullWidth, m[1], ascii(m[1]))
		case c != nil:
			add("wide", i, saysFullWidth, c[1], ascii(c[1]))
		}
		if m := emptyKey.FindStringSubmatch(line); m != nil && lostIndent(m[1], lines[i+1:]) {
			add("indent", i, saysIndent, m[2]+":")
		}
	}
	return out
}

// lostIndent reports whether the line after an empty key that needs content
// stands no deeper than the key.
func lostIndent(indent string, rest []string) bool {
	for _, next := range rest {
		body := strings.TrimSpace(next)
		if body == "" || body[0] == '#' {
			continue
		}
		depth := len(next) - len(strings.TrimLeft(next, " "))
		if depth != len(indent) || !strings.Contains(body, ":") || body[0] == '-' {
			return false
		}
		if topKey.MatchString(body) {
			return false
		}
		return depth == 0 // at the top level nothing but the known keys may follow
	}
	return false
}

// ascii names the sign that is meant by a full-width one.
func ascii(wide string) string {
	switch wide {
	case "“", "”", "「", "『", "＂":
		return `a double quote (")`
	case "‘", "’", "＇":
		return "a single quote (')"
	case "，":
		return "a comma (,)"
	case "［", "］":
		return "a square bracket ([ ])"
	case "｛", "｝":
		return "a curly bracket ({ })"
	}
	return "an ASCII sign"
}

// pastedKey and pastedValue find damage that still parses: a bullet makes one
// text of a whole list, a curly quote becomes part of the value.
func pastedKey(s string) string {
	r, size := firstRune(s)
	switch {
	case size == 0:
	case strings.ContainsRune(exoticSpaces, r):
		return fmt.Sprintf(saysSpace, nameOfTabulars)
	case strings.ContainsRune(bullets, r):
		return fmt.Sprintf(saysBullet, r)
	case strings.ContainsRune(s, '：'):
		return fmt.Sprintf(saysFullWidth, "：", "a colon and a space")
	case strings.ContainsRune(openingQuotes, r):
		return fmt.Sprintf(saysFullWidth, string(r), ascii(string(r)))
	}
	return ""
}

func pastedValue(s string) string {
	r, size := firstRune(s)
	switch {
	case size == 0:
	case strings.ContainsRune(bullets, r) && len(s) > size && s[size] == ' ':
		return fmt.Sprintf(saysBullet, r)
	case strings.ContainsRune(openingQuotes, r):
		return fmt.Sprintf(saysFullWidth, string(r), ascii(string(r)))
	}
	return ""
}

func firstRune(s string) (rune, int) {
	for _, r := range s {
		return r, len(string(r))
	}
	return 0, 0
}
