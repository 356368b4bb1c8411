package format

import (
	"strconv"
	"time"
)

// AppendTime writes t in UTC by a strftime form as Envoy's START_TIME takes
// it; an empty form is 2006-01-02T15:04:05.000Z. Beside the usual letters
// Envoy has %f, %1f to %9f (fraction of the second) and %s, %3s, %6s, %9s
// (since 1970, with milli, micro or nanoseconds). An unknown letter is
// written as it is.
func AppendTime(dst []byte, t time.Time, form string) []byte {
	t = t.UTC()
	if form == "" {
		dst = appendDate(dst, t, '-')
		dst = append(dst, 'T')
		dst = appendClock(dst, t)
		dst = append(dst, '.')
		dst = pad(dst, t.Nanosecond()/1e6, 3)
		return append(dst, 'Z')
	}
	for i := 0; i < len(form); i++ {
		if form[i] != '%' || i+1 == len(form) {
			dst = append(dst, form[i])
			continue
		}
		i++
		width := 0
		if c := form[i]; c >= '1' && c <= '9' && i+1 < len(form) {
			width = int(c - '0')
			i++
		}
		dst = appendLetter(dst, t, form[i], width)
	}
	return dst
}

func appendLetter(dst []byte, t time.Time, c byte, width int) []byte {
	switch c {
	case 'Y':
		return pad(dst, t.Year(), 4)
	case 'm':
		return pad(dst, int(t.Month()), 2)
	case 'd':
		return pad(dst, t.Day(), 2)
	case 'H':
		return pad(dst, t.Hour(), 2)
	case 'M':
		return pad(dst, t.Minute(), 2)
	case 'S':
		return pad(dst, t.Second(), 2)
	case 'F':
		return appendDate(dst, t, '-')
	case 'T':
		return appendClock(dst, t)
	case 'y':
		return pad(dst, t.Year()%100, 2)
	case 'j':
		return pad(dst, t.YearDay(), 3)
	case 'b':
		return append(dst, t.Month().String()[:3]...)
	case 'a':
		return append(dst, t.Weekday().String()[:3]...)
	case 'Z':
		return append(dst, "UTC"...)
	case 'z':
		return append(dst, "+0000"...)
	case 'f':
		if width == 0 {
			width = 9
		}
		return pad(dst, t.Nanosecond()/pow10[9-width], width)
	case 's':
		dst = strconv.AppendInt(dst, t.Unix(), 10)
		if width > 0 {
			dst = pad(dst, t.Nanosecond()/pow10[9-width], width)
		}
		return dst
	case '%':
		return append(dst, '%')
	}
	return append(dst, '%', c)
}

var pow10 = [10]int{1, 10, 100, 1000, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9}

func appendDate(dst []byte, t time.Time, sep byte) []byte {
	y, m, d := t.Date()
	dst = append(pad(dst, y, 4), sep)
	dst = append(pad(dst, int(m), 2), sep)
	return pad(dst, d, 2)
}

func appendClock(dst []byte, t time.Time) []byte {
	h, m, s := t.Clock()
	dst = append(pad(dst, h, 2), ':')
	dst = append(pad(dst, m, 2), ':')
	return pad(dst, s, 2)
}

// pad writes n with at least width digits.
func pad(dst []byte, n, width int) []byte {
	for w := width - 1; w > 0 && n < pow10[min(w, 9)]; w-- {
		dst = append(dst, '0')
	}
	return strconv.AppendInt(dst, int64(n), 10)
}
