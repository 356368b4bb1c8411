//go:build linux

package pod

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// app is the program in a pod.
func app(args []string) int {
	var err error
	switch args[0] {
	case "serve":
		err = serve()
	case "get":
		err = get(args[1])
	case "talk":
		err = talk(args[1], args[2])
	case "lookup":
		var list []net.IP
		list, err = net.DefaultResolver.LookupIP(context.Background(), "ip4", args[1])
		fmt.Println(list)
	case "post":
		var resp *http.Response
		if resp, err = http.Post(args[1], "text/plain", nil); err == nil {
			fmt.Println(resp.Status)
		}
	}
	if err != nil {
		fmt.Println("error:", err)
		return 1
	}
	return 0
}

// serve is a web server that can be made ill.
func serve() error {
	var ill atomic.Bool
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s peer=%s\n", r.Host, r.Header.Get("X-Forwarded-Client-Cert"))
	})
	http.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		if ill.Load() {
			w.WriteHeader(503)
		}
	})
	http.HandleFunc("/ill", func(http.ResponseWriter, *http.Request) { ill.Store(true) })
	http.HandleFunc("/metrics", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "# TYPE app_orders_total counter\napp_orders_total 42\n# EOF\n")
	})
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		return err
	}
	fmt.Println("listening")
	return http.Serve(l, nil)
}

// get is what a program does that calls out at once.
func get(url string) error {
	c := http.Client{Timeout: patience}
	resp, err := c.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	fmt.Printf("%d %s", resp.StatusCode, b)
	return err
}

// talk says when it is connected, and then asks.
func talk(address, host string) error {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	fmt.Println("connected")
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", host); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	fmt.Println(strings.TrimSpace(resp.Status))
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}
