package main

import (
	"context"
	"fmt"
	"strings"
)

// haproxy has a thread per loop of ours; routes by a prefix map on host and path.
var haproxy = &contender{
	name: "haproxy", columns: []string{equal},
	needs: []need{{"haproxy", "haproxy"}},
	start: startHAProxy,
}

func startHAProxy(ctx context.Context, p *plan) (*running, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	r := &running{addr: addr}
	forwarded := " option forwardfor\n http-request set-header x-forwarded-proto http\n"
	switch p.front {
	case plain:
		return r, r.haproxy(ctx, p, "haproxy", haproxyHTTP(addr, forwarded, p.upstream()), addr)
	case muxed:
		return r, r.haproxy(ctx, p, "haproxy", haproxyHTTP(addr+" proto h2", forwarded, p.upstream()+" proto h2"), addr)
	case ending:
		forwarded = " option forwardfor\n http-request set-header x-forwarded-proto https\n"
		return r, r.haproxy(ctx, p, "haproxy", haproxyHTTP(addr+" ssl crt "+p.pki.gateway.both+" ssl-min-ver TLSv1.3 alpn http/1.1", forwarded, p.upstream()), addr)
	case stream:
		return r, r.haproxy(ctx, p, "haproxy", func(string) string {
			return fmt.Sprintf("listen t\n mode tcp\n option splice-auto\n bind %s\n server s %s\n", addr, p.upstream())
		}, addr)
	}
	r.client = p.pki.client
	inner, err := p.inners()
	if err != nil {
		return nil, err
	}
	r.inner = inner[0]
	var servers []string
	for i, at := range inner {
		in := haproxyHTTP(at+" ssl crt "+p.pki.server.both+" ca-file "+p.pki.ca+" verify required ssl-min-ver TLSv1.3 alpn http/1.1",
			" http-request set-header x-forwarded-client-cert Subject=%{+Q}[ssl_c_s_dn]\n", p.upstream())
		if err := r.haproxy(ctx, p, fmt.Sprintf("in%d", i), in, at); err != nil {
			return r, err
		}
		servers = append(servers, fmt.Sprintf("%s ssl crt %s ca-file %s verify required sni str(%s) verifyhost %s ssl-min-ver TLSv1.3", at, p.pki.client.both, p.pki.ca, pairName, pairName))
	}
	out := haproxyHTTP(addr, " http-request set-header x-forwarded-proto http\n", servers...)
	return r, r.haproxy(ctx, p, "out", out, addr)
}

// haproxyHTTP is a front end with the route table, given the map's file.
func haproxyHTTP(bind, headers string, servers ...string) func(file string) string {
	return func(file string) string {
		text := fmt.Sprintf("frontend f\n bind %s\n%s use_backend %%[base,map_beg(%s)]\nbackend b\n", bind, headers, file)
		for i, s := range servers {
			text += fmt.Sprintf(" server s%d %s\n", i, s)
		}
		return text
	}
}

// haproxyConnections is what the limit of open files allows: two descriptors
// for a connection, and pipes for those that splice.
func (p *plan) haproxyConnections() int {
	if p.front == stream {
		return min(4000, (descriptors()-100)/3)
	}
	return min(12000, (descriptors()-100)/2)
}

// haproxy runs one and waits for addr.
func (r *running) haproxy(ctx context.Context, p *plan, name string, conf func(file string) string, addr string) error {
	var m strings.Builder
	for _, row := range table() {
		fmt.Fprintf(&m, "%s%s b\n", row.host, row.prefix)
	}
	routes, err := p.write("routes.map", m.String())
	if err != nil {
		return err
	}
	file, err := p.write(name+".cfg", fmt.Sprintf(`global
 nbthread %d
 maxconn %d
 tune.h2.max-concurrent-streams 1000
 ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
 ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
 mode http
 timeout connect 5s
 timeout client 600s
 timeout server 600s
 timeout http-keep-alive 600s
 option http-keep-alive
 http-reuse always
`, p.loops(), p.haproxyConnections())+conf(routes))
	if err != nil {
		return err
	}
	j, err := spawn(p.dir, name, p.cpus(), "haproxy", "-db", "-f", file)
	if err != nil {
		return err
	}
	r.jobs = append(r.jobs, j)
	if err := j.listening(ctx, addr); err != nil {
		return err
	}
	r.pids = append(r.pids, family(j.pid(), "haproxy")...)
	return nil
}
