// Package paths holds tests from YAML to decision: the whole way through
// source, dialects, link, lower and the proxy's decoders and routing, without a
// network.
//
// In: testdata/*.txtar, each with YAML files and a "calls" part: a line per
// request as `tulle explain` takes it, followed by a line "= ..." with what
// must come of it, and perhaps lines "~ ..." with texts that its steps must
// hold. Out: failures; with -update the "= " lines are rewritten.
//
// What does not belong here: sockets, and anything that needs a clock.
package paths
