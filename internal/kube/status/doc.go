// Package status tells users at the API server what became of their objects:
// conditions of the Gateway API's kinds and of Istio's, addresses of Gateways
// and Ingresses.
//
// In: the user's objects and what the readers made of them. Out: writes of the
// status subresource, a bounded number a second, none that would change nothing.
// Others' parents and conditions stay. Only a leader should run it.
//
// What does not belong here: judging objects (dialect, link, analyze).
package status
