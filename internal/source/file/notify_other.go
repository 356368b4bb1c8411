//go:build !linux

package file

import "time"

// notifier of systems without inotify: polling does everything.
type notifier struct{}

func newNotifier() *notifier { return &notifier{} }

func (*notifier) events() <-chan []string  { return nil }
func (*notifier) pollEvery() time.Duration { return poll / 4 }
func (*notifier) watch([]string)           {}
func (*notifier) stop()                    {}
func (*notifier) close()                   {}
