// Package demand tests sidecars that look destinations up when they are first
// used: whole proxies over real sockets, whose place says what was captured,
// against a control plane that does what the test says, and against our own
// with a wildcard sidecar as the judge. What the parts do alone is tested in internal/proxy/demand,
// internal/proxy/feed and internal/control.
package demand
