// Package feed tests the two halves of the wire against each other: everything
// that our control plane makes of user configuration, the proxy's feed must
// accept.
package feed
