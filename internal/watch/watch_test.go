package watch

import "testing"

func TestReaderSeesOnlyTheNewest(t *testing.T) {
	var v Value[int]
	x, changed := v.Get()
	if x != 0 {
		t.Fatalf("zero Value holds %d", x)
	}
	select {
	case <-changed:
		t.Fatal("signal without a Set")
	default:
	}
	v.Set(1)
	v.Set(2)
	<-changed
	if x, changed = v.Get(); x != 2 {
		t.Fatalf("got %d, want 2", x)
	}
	select {
	case <-changed:
		t.Fatal("signal for a value that was already read")
	default:
	}
}

func TestEveryReaderIsWoken(t *testing.T) {
	var v Value[string]
	done := make(chan string)
	for range 10 {
		_, changed := v.Get()
		go func() {
			<-changed
			s, _ := v.Get()
			done <- s
		}()
	}
	v.Set("new")
	for range 10 {
		if s := <-done; s != "new" {
			t.Fatalf("got %q", s)
		}
	}
}
