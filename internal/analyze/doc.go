// Package analyze finds mistakes in the relations between a user's objects:
// references to what is not there, rules that never act, policies that say
// something else than they seem to.
//
// In: a snapshot, what the dialects understood of it, the linked mesh with its
// notices. Out: findings with a code (istioctl's where it has one), a level,
// and the place in the user's text.
// What does not belong here: rules about a single field (the dialects have
// them), what a relation means for traffic (link decides it and gives the
// notice; here it only gets its code), printing.
package analyze
