// Package dns answers a program's questions about names: those of the mesh
// from a table, all others by asking the machine's own resolvers.
//
// In: sockets where the program's questions arrive, the table. Out: answers
// (RFC 1035, EDNS of RFC 6891 as far as sizes go). Nothing is cached; time,
// sizes and numbers are bounded. What does not belong here: which names there
// are, how questions get here.
package dns
