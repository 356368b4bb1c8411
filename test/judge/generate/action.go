package generate

import "strings"

// action gives a rule what it does, and asks for what that does, by requests
// that hit it.
func (g *gen) action(v *virtual, rule Obj, hits []func(*Request)) Obj {
	hit := func(r *Request) { r.Target = one(g, paths...) }
	if hits != nil {
		hit = one(g, hits...)
	}
	g.headers(v, rule, hit)
	switch g.IntN(10) {
	case 0:
		rule["redirect"] = g.redirect()
		g.request(v, hit, func(r *Request) { r.query("more=1") })
		g.cors(v, rule, hit)
		return rule
	case 1:
		rule["directResponse"] = g.direct()
		return rule
	}
	g.route(v, rule, hit)
	if g.percent(30) {
		g.rewrite(rule)
		g.request(v, hit, func(r *Request) { r.query("more=1") })
	}
	if g.percent(25) {
		g.retries(v, rule, hit)
	}
	if g.percent(12) {
		g.fault(v, rule, hit)
	}
	if _, again := rule["retries"]; !again && g.percent(20) { // a copy would count as an attempt
		g.mirrors(rule)
		g.request(v, hit, func(r *Request) { r.Body = "of the mirror" })
	}
	g.cors(v, rule, hit)
	if g.percent(15) {
		rule["timeout"] = one(g, "30s", "0s", "1m")
	}
	return rule
}

// destination of a route, perhaps one that is not there.
func (g *gen) destination() Obj {
	if g.percent(4) {
		return Obj{"host": one(g, "missing."+placeholder+".example", "nowhere")}
	}
	s := one(g, g.svcs...)
	d := Obj{"host": one(g, s.called()...)}
	if len(s.subsets) > 0 && g.percent(70) {
		d["subset"] = one(g, s.subsets...)
	}
	if g.percent(40) || s.port != 80 {
		d["port"] = Obj{"number": s.port}
	}
	return d
}

func (g *gen) route(v *virtual, rule Obj, hit func(*Request)) {
	n := 1
	if g.percent(20) {
		n = 2 + g.IntN(2)
	}
	var route List
	taker := g.IntN(n)
	for i := range n {
		d := Obj{"destination": g.destination()}
		if n > 1 {
			// What a request does is not left to chance: one takes all.
			if d["weight"] = 0; i == taker {
				d["weight"] = one(g, 1, 30, 100)
			}
		} else if g.percent(10) {
			d["weight"] = one(g, 0, 50, 100)
		}
		if g.percent(25) {
			d["headers"] = g.headerOps("destination")
		}
		route = append(route, d)
	}
	rule["route"] = route
}

// headers at the level of the rule.
func (g *gen) headers(v *virtual, rule Obj, hit func(*Request)) {
	if !g.percent(40) {
		return
	}
	rule["headers"] = g.headerOps("rule")
	g.request(v, hit, func(r *Request) {
		r.set("x-given", "by client")
		r.Headers = append(r.Headers, [2]string{"x-echo-set", "x-back=by backend"}, [2]string{"x-echo-set", "x-twice=1"}, [2]string{"x-echo-set", "x-twice=2"})
		if g.percent(30) {
			r.Headers = append(r.Headers, [2]string{"x-given", "twice"})
		}
	})
}

func (g *gen) headerOps(level string) Obj {
	out := Obj{}
	names := map[string][]string{"request": {"x-given", "x-new", "x-a", "X-Upper", "user-agent", "x-b"}, "response": {"x-back", "x-made", "x-twice", "content-type", "server", "X-Upper"}}
	vals := []string{level, "%PROTOCOL%", "plain", "[%REQ(x-a)%]", "100%%", "%REQ(:PATH)%", "%REQ(:authority)% and %REQ(x-none?x-a)%", "é ü", "", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "%REQ(X-Given):3%", `"quoted" \ text`, "%RESPONSE_CODE%", "50% off", "%ROUTE_NAME%"}
	for _, side := range some(g, 1, "request", "response") {
		ops := Obj{}
		for _, op := range some(g, 1, "set", "add", "remove") {
			ns := some(g, 1, names[side]...)[:1]
			if op == "remove" {
				ops[op] = list(ns)
				continue
			}
			hs := Obj{}
			for _, n := range ns {
				hs[n] = one(g, vals...)
			}
			ops[op] = hs
		}
		if side == "request" && g.percent(8) {
			into(ops, "set")[one(g, "Host", ":authority", "host")] = "by.header.example"
		}
		out[side] = ops
	}
	return out
}

func (g *gen) redirect() Obj {
	r := Obj{}
	for len(r) == 0 {
		switch g.IntN(3) {
		case 0:
			r["uri"] = one(g, "/new", "/new?x=1", "/")
		case 1:
			r["prefixRewrite"] = one(g, "/new", "/", "/n/")
		}
		if g.percent(40) {
			r["authority"] = one(g, "other.example", "other.example:9", "[::1]")
		}
		if g.percent(40) {
			r["scheme"] = one(g, "http", "https")
		}
		switch g.IntN(4) {
		case 0:
			r["port"] = one(g, 80, 443, 8443)
		case 1:
			r["derivePort"] = one(g, "FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT")
		}
	}
	if g.percent(60) {
		r["redirectCode"] = one(g, 301, 302, 303, 307, 308)
	}
	return r
}

func (g *gen) direct() Obj {
	d := Obj{"status": one(g, 200, 204, 304, 404, 418, 503)}
	switch g.IntN(3) {
	case 0:
		d["body"] = Obj{"string": one(g, "text", "{}", "50% é", strings.Repeat("long ", 100))}
	case 1:
		d["body"] = Obj{"bytes": "AAEC"}
	}
	return d
}

func (g *gen) rewrite(rule Obj) {
	rw := Obj{}
	switch g.IntN(4) {
	case 0, 1:
		rw["uri"] = one(g, "/", "/new", "/new/", "/n?x=1", "/%41")
	case 2:
		rw["uriRegexRewrite"] = one(g,
			Obj{"match": "/a", "rewrite": "/z"},
			Obj{"match": "^/([^/]+)/(.*)$", "rewrite": `/\2/\1`},
			Obj{"match": "[aeiou]", "rewrite": "_"},
			Obj{"match": "(x)?", "rewrite": `[\1]`},
			Obj{"match": "$", "rewrite": "/end"},
			Obj{"match": "^/.*", "rewrite": `/all\0`},
		)
	}
	if len(rw) == 0 || g.percent(40) {
		rw["authority"] = one(g, "inner.example", "inner.example:99")
	}
	rule["rewrite"] = rw
}

func (g *gen) retries(v *virtual, rule Obj, hit func(*Request)) {
	on := some(g, 1, "5xx", "gateway-error", "retriable-4xx", "connect-failure", "reset", "503", "409", "refused-stream", "unavailable", "retriable-status-codes")
	if g.percent(15) {
		rule["retries"] = Obj{"attempts": 0}
		return
	}
	rt := Obj{"attempts": one(g, 1, 2, 3), "backoff": "1ms"}
	if g.percent(90) {
		rt["retryOn"] = strings.Join(on, ",")
	}
	if g.percent(20) {
		rt["perTryTimeout"] = "20s"
	}
	if g.percent(20) {
		rt["retryRemoteLocalities"] = true
	}
	if g.percent(20) {
		rt["retryIgnorePreviousHosts"] = g.percent(50)
	}
	rule["retries"] = rt
	for range 2 {
		g.request(v, hit, func(r *Request) {
			r.set("x-echo-status", one(g, "500", "502", "503", "504", "409", "404", "429", "200"))
			if g.percent(50) {
				r.set("x-echo-fail", one(g, "1", "2"))
			}
			if g.percent(20) {
				r.Body = "again"
			}
			if g.percent(15) {
				r.set(one(g, "x-envoy-retry-on", "x-envoy-max-retries", "x-envoy-retriable-status-codes"), one(g, "5xx", "1", "429"))
			}
		})
	}
}

func (g *gen) fault(v *virtual, rule Obj, hit func(*Request)) {
	f := Obj{}
	share := func() Obj { return Obj{"value": one(g, 100, 100, 0)} }
	if g.percent(30) {
		f["delay"] = Obj{"percentage": share(), "fixedDelay": "1ms"}
	}
	if len(f) == 0 || g.percent(70) {
		f["abort"] = one(g, Obj{"httpStatus": 418, "percentage": share()}, Obj{"httpStatus": 503, "percentage": share()},
			Obj{"grpcStatus": one(g, "UNAVAILABLE", "NOT_FOUND"), "percentage": share()}, Obj{"httpStatus": 500})
	}
	rule["fault"] = f
	g.request(v, hit, func(r *Request) {
		if g.percent(30) {
			r.set("content-type", "application/grpc")
			r.Body = "x"
		}
	})
}

func (g *gen) mirrors(rule Obj) {
	share := func() Obj { return Obj{"value": one(g, 100, 100, 0)} }
	if g.percent(50) {
		rule["mirror"] = g.destination()
		if g.percent(70) {
			rule["mirrorPercentage"] = share()
		}
		return
	}
	var ms List
	for range 1 + g.IntN(2) {
		m := Obj{"destination": g.destination()}
		if g.percent(70) {
			m["percentage"] = share()
		}
		ms = append(ms, m)
	}
	rule["mirrors"] = ms
}

func (g *gen) cors(v *virtual, rule Obj, hit func(*Request)) {
	if !g.percent(15) {
		return
	}
	c := Obj{}
	origins := []pattern{{"https://[a-z]+\\.example", []string{"https://a.example"}, []string{"https://a.example.org", "http://a.example"}}}
	if g.percent(85) {
		var os List
		var hits, misses []string
		for range 1 + g.IntN(2) {
			s, h, m := g.stringMatch([]string{"https://a.example", "http://b.example:8080", "*", "https://"}, origins)
			os = append(os, s)
			hits, misses = append(hits, h...), append(misses, m...)
		}
		c["allowOrigins"] = os
		for _, o := range []string{one(g, hits...), one(g, misses...)} {
			if o == "" {
				continue
			}
			g.request(v, hit, func(r *Request) { r.set("origin", o) })
			g.request(v, hit, func(r *Request) {
				r.Method = "OPTIONS"
				r.set("origin", o)
				if g.percent(85) {
					r.set("access-control-request-method", one(g, "GET", "PUT", "DELETE"))
				}
				if g.percent(30) {
					r.set("access-control-request-headers", "x-a, x-c")
				}
			})
		}
	}
	for _, key := range some(g, 0, "allowMethods", "allowHeaders", "exposeHeaders", "maxAge", "allowCredentials", "unmatchedPreflights") {
		c[key] = map[string]any{
			"allowMethods": List{"GET", "PUT"}, "allowHeaders": List{"x-a", "x-b"}, "exposeHeaders": List{"x-back"},
			"maxAge": one(g, "24h", "1s", "0s"), "allowCredentials": g.percent(70), "unmatchedPreflights": one(g, "FORWARD", "IGNORE"),
		}[key]
	}
	rule["corsPolicy"] = c
}
