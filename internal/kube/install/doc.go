// Package install puts the mesh on a cluster: what a user asks for, in the words
// of IstioOperator, to manifests, and these to the cluster.
//
// In: a profile, IstioOperator files, --set words. Out: objects in the order in
// which they are applied, what of the input conflicts or is ignored, and an
// installed, pruned or removed mesh.
// What does not belong here: how pods are injected (webhook reads the same
// values), the user's own objects.
package install
