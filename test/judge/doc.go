// Package judge compares our proxy with a stock Envoy: the same configuration
// from our control plane, the same requests, every field of the answers and of
// what the backend saw.
//
// In: testdata/mesh.yaml, and testdata/requests.txt, a line per request with
// what must come out, written by hand. Out: failures, each a line and the
// fields that differ. A proxy under test is a function that starts one (see
// Engine); Envoy is always there, and is held to the written expectations, too.
//
// TestGenerated does the same with configurations that generate makes from a
// seed, many in one mesh at a time, and holds explain to what both proxies did.
// It runs 100 of seed 1; -args -seed 7 -n 5000 is the long form. A difference
// is shown with the least of its configuration that still shows it (-whole: as
// it was found). What is meant stands in meant_test.go and RATIONALE.md.
//
// What does not belong here: what only one of the two can do.
package judge
