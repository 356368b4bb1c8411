// Package strict holds whole proxies to the protocols' rules: what two readers
// could take for different things is refused, or leaves in a form that all
// readers take for the same; what a peer could use up is bounded.
//
// In: vectors as text (testdata), published conformance suites, bytes of
// hostile peers. Out: verdicts.
//
// What does not belong here: what the proxy does with good requests (test/wire).
package strict
