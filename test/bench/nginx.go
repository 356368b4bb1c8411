package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// backend answers 1 KiB of JSON: an nginx on the load generator's core.
type backend struct{ cmd *exec.Cmd }

func (b *backend) Start(ctx context.Context, dir string) (string, error) {
	addr, err := freeAddr()
	if err != nil {
		return "", err
	}
	body := strings.Repeat(`{"item":42,"text":"lorem"} `, 38)[:1024]
	conf := nginxHead(dir, "backend") + `
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 3600; tcp_nodelay on;
  server { listen ` + addr + ` backlog=4096;
    location / { default_type application/json;
      add_header x-frame-options DENY; add_header x-content-type-options nosniff;
      add_header cache-control "no-store"; add_header x-version 1.2.3;
      return 200 '` + body + `'; } } }
`
	b.cmd, err = startNginx(ctx, dir, "backend", conf, "1", addr)
	return addr, err
}

func (b *backend) Stop() { stopGroup(b.cmd) }

// nginx is the contender everybody knows.
type nginx struct{ cmd *exec.Cmd }

func (n *nginx) Name() string { return "nginx" }

func (n *nginx) Start(ctx context.Context, dir, backend string) (string, []int, error) {
	addr, err := freeAddr()
	if err != nil {
		return "", nil, err
	}
	var c strings.Builder
	c.WriteString(nginxHead(dir, "nginx"))
	fmt.Fprintf(&c, "http {\n access_log off; keepalive_requests 1000000000; keepalive_timeout 3600; tcp_nodelay on;\n")
	fmt.Fprintf(&c, " server_names_hash_bucket_size 128;\n upstream b { server %s; keepalive 256; keepalive_requests 1000000000; }\n", backend)
	for host := range hosts {
		listen := addr
		if host == 0 {
			listen += " backlog=4096"
		}
		fmt.Fprintf(&c, " server { listen %s; server_name svc%d.example.local;\n", listen, host)
		for _, p := range prefixes(host) {
			fmt.Fprintf(&c, "  location %s { proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection \"\";\n", p)
			c.WriteString("   proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n")
			c.WriteString("   proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Request-Id $http_x_request_id; }\n")
		}
		c.WriteString(" }\n")
	}
	c.WriteString("}\n")
	if n.cmd, err = startNginx(ctx, dir, "nginx", c.String(), "0", addr); err != nil {
		return "", nil, err
	}
	return addr, append(children(n.cmd.Process.Pid), n.cmd.Process.Pid), nil
}

func (n *nginx) Stop() { stopGroup(n.cmd) }

const hosts = 20

// prefixes of a host's route table.
func prefixes(host int) []string {
	var out []string
	for i := range 8 {
		out = append(out, fmt.Sprintf("/svc%d/v%d/", host, i+1))
	}
	return append(out, "/api/v1/", "/")
}

func nginxHead(dir, name string) string {
	return fmt.Sprintf("daemon off; worker_processes 1; pid %s; error_log %s warn;\nevents { worker_connections 8192; }\n",
		filepath.Join(dir, name+".pid"), filepath.Join(dir, name+".err"))
}

func startNginx(ctx context.Context, dir, name, conf, cpu, addr string) (*exec.Cmd, error) {
	file := filepath.Join(dir, name+".conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.Command("taskset", "-c", cpu, "nginx", "-p", dir, "-c", file)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return cmd, waitListening(ctx, addr)
}

// waitListening waits until a connection is accepted.
func waitListening(ctx context.Context, addr string) error {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if c, err := net.DialTimeout("tcp", addr, time.Second); err == nil {
			return c.Close()
		}
	}
	return fmt.Errorf("nothing listens on %s", addr)
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// children are the processes that pid has started, and theirs.
func children(pid int) []int {
	var out []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, s := range stats {
		b, err := os.ReadFile(s)
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(f) < 2 || f[1] != strconv.Itoa(pid) {
			continue
		}
		if c, err := strconv.Atoi(filepath.Base(filepath.Dir(s))); err == nil {
			out = append(append(out, c), children(c)...)
		}
	}
	return out
}
