package xds

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCoalescing(t *testing.T) {
	both(t, "first at once, then ten a second", func(t *testing.T, f *fake) {
		f.put("eds a=0")
		f.ask("eds", "", "a")
		f.ack(f.want("eds a=0"), "a")
		time.Sleep(time.Second)
		begin := time.Now()
		f.put("eds a=1")
		f.ack(f.want("eds a=1"), "a")
		if d := time.Since(begin); d != 0 {
			t.Errorf("the first change waited %v", d)
		}
		go func() {
			for i := range 1000 {
				f.put(fmt.Sprintf("eds a=%d", i+2))
				time.Sleep(time.Millisecond)
			}
		}()
		n := 0
		for last := ""; last != "eds a=1001"; n++ {
			r := <-f.out
			last = show(r)
			f.ack(r, "a")
		}
		if n < 9 || n > 12 {
			t.Errorf("%d responses for 1,000 changes in a second", n)
		}
	})
}

// What is large and changes all the time is sent at a bounded rate, the first
// change at once, and the last state within longestHold.
func TestLargeResourcesAreSentAgainAtABoundedRate(t *testing.T) {
	both(t, "", func(t *testing.T, f *fake) {
		body := func(i int) string { return fmt.Sprintf("eds a=%06d%s", i, strings.Repeat("x", 128<<10)) }
		f.put(body(0))
		f.ask("eds", "", "a")
		f.ack(f.want(body(0)), "a")
		time.Sleep(time.Second)
		begin := time.Now()
		go func() {
			for i := range 500 {
				f.put(body(i + 1))
				time.Sleep(10 * time.Millisecond)
			}
		}()
		n := 0
		for last := ""; last != body(500); n++ {
			r := <-f.out
			if last = show(r); n == 0 && (last != body(1) || time.Since(begin) != 0) {
				t.Errorf("the first change waited %v", time.Since(begin))
			}
			f.ack(r, "a")
		}
		if d := time.Since(begin); d > 5*time.Second+longestHold {
			t.Errorf("the last change waited %v", d-5*time.Second)
		}
		if most := 5*againRate/(128<<10) + 2; n > most || n < most/2 {
			t.Errorf("sent %d times, want %d", n, most)
		}
	})
}

func TestSlowReaderSkipsToTheNewest(t *testing.T) {
	both(t, "", func(t *testing.T, f *fake) {
		f.put("eds a=0")
		f.ask("eds", "", "a")
		for i := range 50 { // nobody reads
			time.Sleep(time.Second)
			f.put(fmt.Sprintf("eds a=%d", i+1))
		}
		f.ack(f.want("eds a=0"), "a")
		f.ack(f.want("eds a=50"), "a")
		f.quiet()
	})
}

func TestLargeStateComesInParts(t *testing.T) {
	bubble(t, true, func(t *testing.T, f *fake) {
		var rs []Resource
		for i := range 5 {
			rs = append(rs, Resource{Type: EndpointType, Name: fmt.Sprint("c", i), Body: []byte(strings.Repeat(fmt.Sprint(i), maxChunk/2))})
		}
		f.set = NewSet("1", nil, rs)
		f.sets.Set(f.set)
		f.ask("eds", "", "*")
		var parts []int
		for range 3 {
			r := <-f.out
			parts = append(parts, len(r.resources))
			f.ack(r)
		}
		if !slices.Equal(parts, []int{2, 2, 1}) {
			t.Errorf("parts of %v", parts)
		}
		f.quiet()
	})
}
