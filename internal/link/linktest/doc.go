// Package linktest makes random meshes and changes them, for tests that compare
// what is kept up to date with what is made anew.
//
// In: a seed. Out: Worlds, whose fragments share what a step did not change, and
// clients of them. Hosts, labels and addresses come from small sets, so that
// objects meet: they conflict, shadow and select each other.
//
// What does not belong here: what is right (the tests compare two ways).
package linktest
