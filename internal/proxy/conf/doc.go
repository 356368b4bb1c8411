// Package conf holds the proxy's runtime configuration: immutable nodes with
// only what the proxy acts on, made from xDS resources one by one.
//
// In: one resource's bytes (by the decoders in conf/wire, generated from the
// published descriptors). Out: a node, or an error that names the path of what
// is not understood; such a resource is refused alone and its last good
// version stays.
//
// Nodes never point at other resources: they name them (route table, cluster,
// secret), and whoever runs them looks the name up when it is used. Nodes are
// shared by all loops without a lock and must not be changed once built.
//
// What does not belong here: sockets, counters, health, anything that changes
// by itself (see cluster), and decisions (see route).
package conf
