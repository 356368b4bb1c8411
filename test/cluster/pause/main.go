// Command pause is the first process of every pod of a cluster under test.
//
// In: signals. Out: nothing; it buries what the pod leaves behind and ends
// when it is told to.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	in := make(chan os.Signal, 16)
	signal.Notify(in, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range in {
		if s != syscall.SIGCHLD {
			return
		}
		for pid := 1; pid > 0; {
			pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil) // an error: nobody is left
		}
	}
}
