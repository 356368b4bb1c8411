// Package conformance is the Gateway API's own conformance suite, as published,
// against a cluster on which Tulle is. It is a module of its own, so that
// nothing of the suite is required by Tulle.
//
// In: a kubeconfig, the suite's flags; test/gatewayapi gives both. Out: verdicts
// and the suite's report. What does not belong here: tests of our own.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

// TestConformance runs what the suite's flags say.
func TestConformance(t *testing.T) { conformance.RunConformance(t) }
