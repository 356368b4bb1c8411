package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// placeMain is the first program of Tulle's pair: it says where its sidecar
// takes requests and waits.
func placeMain() error {
	fmt.Println("proxy " + os.Getenv("HTTP_PROXY"))
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, os.Interrupt)
	<-end
	return nil
}
