// Package link makes one resolved mesh of what the dialects understood, and of
// it, for one client proxy, the View that lower writes down.
//
// In: a model.Fragment (all readers' fragments merged) and the mesh Settings.
// Out: a Mesh, notices about references and conflicts, and Views. Everything
// that has to be chosen is chosen here: which VirtualService owns a host, which
// DestinationRule a client uses, which endpoints a service has, which servers
// share a gateway port. Nothing after the View chooses.
//
// What does not belong here: reading user objects, and the shape of xDS.
// Link and View are pure: the same input gives the same output, no I/O, no clock.
package link
