// Package hpack encodes and decodes HTTP/2 field blocks (RFC 7541).
//
// In: field blocks, or fields. Out: fields, or blocks. A Decoder and an
// Encoder belong to one connection; neither allocates in steady state and
// neither is safe for concurrent use.
//
// What does not belong here: frames, limits on the size of a field list, what
// a field means, except whether it may enter a compression table.
package hpack
