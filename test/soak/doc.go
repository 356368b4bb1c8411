// Package soak runs mixed traffic through a mesh for a long time while its
// configuration changes each second, backends die and return, proxies restart
// hot and the control plane goes away.
//
// In: how long, and the seed of what happens (-args -for 30m -seed 7). Out:
// every failure that no event explains, memory that grows, descriptors and
// goroutines that are left behind.
//
// What does not belong here: single behaviours (life, wire, judge), speed
// (bench).
package soak
