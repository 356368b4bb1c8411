//go:build linux

// Package agent is the first process in a program's own user, network, mount
// and PID namespace: it makes the place, opens sockets there for the sidecar,
// which lives outside, starts the program without privileges, and buries what
// the program leaves behind.
//
// In: a command line from tulle run and its control socket. Out: the program's
// exit status. The place is as if the program was alone on a machine whose
// only way out is the mesh: its address on the loopback interface, a default
// route there, redirect rules, names from the sidecar, processes of its own.
//
// What does not belong here: who asks for the place (standalone), what the
// sidecar does with the sockets (proxy), the rules themselves (redirect).
package agent
