// Package demo is a small shop that runs on the mesh: its configuration, its
// programs, and stories that show what the mesh does.
//
// In: a standalone mesh to run on. Out: lines on the terminal, and for Check
// one verdict per story, measured on real sockets. What does not belong here:
// anything that a user's own services could not do as well.
package demo

import "embed"

// Mesh is the shop's configuration, a directory of YAML.
//
//go:embed mesh/*.yaml
var Mesh embed.FS
