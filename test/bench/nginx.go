package main

import (
	"context"
	"fmt"
	"strings"
)

// nginx is the proxy that everybody knows: a worker per loop of ours. Bodies
// pass as they come, in neither direction by way of a file.
var nginx = &contender{
	name: "nginx", columns: []string{equal},
	needs:  []need{{"nginx", "nginx"}},
	fronts: []front{plain, muxed, paired, ending}, // Debian's has no stream module
	start:  startNginx,
}

func startNginx(ctx context.Context, p *plan) (*running, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	r := &running{addr: addr}
	var c strings.Builder
	switch p.front {
	case plain:
		nginxServers(&c, addr, "", "http://b", nginxForwarded)
	case muxed:
		nginxServers(&c, addr+" http2", "", "grpc://b", nginxForwarded)
	case ending:
		nginxServers(&c, addr+" ssl", nginxTLS(p.pki.gateway), "http://b", nginxForwarded)
	case paired:
		r.client = p.pki.client
		inner, err := p.inners()
		if err != nil {
			return nil, err
		}
		r.inner = inner[0]
		for i, in := range inner {
			name := fmt.Sprintf("in%d", i)
			nginxServers(&c, in+" ssl", nginxTLS(p.pki.server)+fmt.Sprintf(" ssl_client_certificate %s; ssl_verify_client on;", p.pki.ca), "http://b",
				"proxy_set_header X-Forwarded-Proto $http_x_forwarded_proto; proxy_set_header X-Forwarded-Client-Cert \"Subject=$ssl_client_s_dn\";")
			if err := r.nginx(ctx, p, name, nginxConf(p, name, c.String(), p.upstream()), in); err != nil {
				return r, err
			}
			c.Reset()
		}
		nginxServers(&c, addr, fmt.Sprintf("proxy_ssl_certificate %s; proxy_ssl_certificate_key %s; proxy_ssl_trusted_certificate %s; "+
			"proxy_ssl_verify on; proxy_ssl_name %s; proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse on;",
			p.pki.client.cert, p.pki.client.key, p.pki.ca, pairName), "https://b", "proxy_set_header X-Forwarded-Proto $scheme;")
		return r, r.nginx(ctx, p, "out", nginxConf(p, "out", c.String(), inner...), addr)
	}
	return r, r.nginx(ctx, p, "nginx", nginxConf(p, "nginx", c.String(), p.upstream()), addr)
}

const nginxForwarded = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;"

func nginxTLS(c certificate) string {
	return fmt.Sprintf("ssl_certificate %s; ssl_certificate_key %s; ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;", c.cert, c.key)
}

// nginxServers writes the route table; to is a proxy_pass or grpc_pass URL.
func nginxServers(c *strings.Builder, listen, extra, to, headers string) {
	pass := "proxy_pass " + to + "; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;"
	if strings.HasPrefix(to, "grpc:") {
		pass = "grpc_pass " + to + ";"
		headers = strings.ReplaceAll(headers, "proxy_set_header", "grpc_set_header")
	}
	for h := range hostCount {
		l := listen
		if h == 0 {
			l += " backlog=4096"
		}
		fmt.Fprintf(c, " server { listen %s; server_name %s; %s\n", l, hostName(h), extra)
		for _, prefix := range prefixesOf(hostName(h)) {
			fmt.Fprintf(c, "  location %s { %s %s }\n", prefix, pass, headers)
		}
		c.WriteString(" }\n")
	}
}

func nginxConf(p *plan, name, servers string, upstream ...string) string {
	return fmt.Sprintf(`daemon off; worker_processes %d; worker_rlimit_nofile 20000; pid %s; error_log %s warn;
events { worker_connections 12000; }
http {
 access_log off; keepalive_requests 1000000000; keepalive_timeout 3600; tcp_nodelay on; server_tokens off;
 http2_max_requests 1000000000; http2_max_concurrent_streams 1000; server_names_hash_bucket_size 128;
 client_body_temp_path %s; proxy_temp_path %s; fastcgi_temp_path %s; uwsgi_temp_path %s; scgi_temp_path %s;
 client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0;
 upstream b { %skeepalive 512; keepalive_requests 1000000000; }
%s}
`, p.loops(), p.path(name+".pid"), p.path(name+".err"), p.path("cb"), p.path("pt"), p.path("ft"), p.path("ut"), p.path("st"), "server "+strings.Join(upstream, "; server ")+"; ", servers)
}

// nginx runs one nginx, master and worker, and waits for addr.
func (r *running) nginx(ctx context.Context, p *plan, name, conf, addr string) error {
	file, err := p.write(name+".conf", conf)
	if err != nil {
		return err
	}
	j, err := spawn(p.dir, name, p.cpus(), "nginx", "-p", p.dir, "-c", file)
	if err != nil {
		return err
	}
	r.jobs = append(r.jobs, j)
	if err := j.listening(ctx, addr); err != nil {
		return err
	}
	var pids []int
	err = j.await(ctx, "its workers", func() bool { pids = family(j.pid(), "nginx"); return len(pids) == 1+p.loops() })
	r.pids = append(r.pids, pids...)
	return err
}
