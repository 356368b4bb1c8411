// Command h2spec runs the HTTP/2 conformance cases of
// github.com/summerwind/h2spec against a server on 127.0.0.1, in cleartext or,
// when tls is said, under TLS whose certificate is not looked at.
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/summerwind/h2spec"
	"github.com/summerwind/h2spec/config"
)

func main() {
	secure := len(os.Args) == 3 && os.Args[2] == "tls"
	if len(os.Args) != 2 && !secure {
		fmt.Fprintln(os.Stderr, "usage: h2spec PORT [tls]")
		os.Exit(2)
	}
	port, err := strconv.Atoi(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	ok, err := h2spec.Run(&config.Config{
		Host: "127.0.0.1", Port: port, Path: "/", Timeout: 10 * time.Second, MaxHeaderLen: 4000, Strict: true,
		TLS: secure, Insecure: secure,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}
