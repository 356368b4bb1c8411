package dialect

import (
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// Reader understands one API family. Its methods are pure: no clock, no I/O,
// no state, the same objects give the same answer. They may be called
// concurrently.
type Reader interface {
	// Name of the API family, for messages.
	Name() string
	// Claims reports whether Read wants objects of this kind: those it
	// understands and those of its family that it tells the user about. What
	// several readers claim all of them get; one tells the user about it.
	Claims(apiVersion, kind string) bool
	// Read gets only claimed objects. One bad object is a notice and harms no
	// other. The fragment shares nothing mutable with the objects.
	Read(objects []*source.Object) (model.Fragment, []model.Notice)
}

// trafficGroups carry routes or policies that a user will miss when nobody
// reads them.
var trafficGroups = map[string]bool{
	"networking.k8s.io": true, "gateway.networking.k8s.io": true, "split.smi-spec.io": true,
	"access.smi-spec.io": true, "specs.smi-spec.io": true, "policy.linkerd.io": true, "cilium.io": true,
	"traefik.io": true, "projectcontour.io": true,
}

// ReadAll gives each reader the objects that it claims, in the snapshot's
// order. The notices are all there are: those of the
// snapshot, one for each object that nobody claims, and those of the readers;
// they stand in the snapshot's file order, then by line.
func ReadAll(readers []Reader, snap source.Snapshot) (model.Fragment, []model.Notice) {
	return readAll(readers, snap, func(i int, objects []*source.Object, take func(model.Fragment, []model.Notice)) {
		take(readers[i].Read(objects))
	})
}

func readAll(readers []Reader, snap source.Snapshot, read func(i int, objects []*source.Object, take func(model.Fragment, []model.Notice))) (model.Fragment, []model.Notice) {
	var all model.Fragment
	notices := slices.Clone(snap.Notices)
	groups := make([][]*source.Object, len(readers))
	files := make(map[string]int)
	for _, n := range snap.Notices {
		rank(files, n.Origin.File)
	}
	for _, o := range snap.Objects {
		rank(files, o.File)
		claimed := false
		for i, r := range readers {
			if r.Claims(o.APIVersion, o.Kind) {
				groups[i] = append(groups[i], o)
				claimed = true
			}
		}
		if claimed {
			continue
		}
		sev := model.Info
		if trafficGroups[Group(o.APIVersion)] {
			sev = model.Warning
		}
		notices = append(notices, model.Notice{
			Severity: sev, Reason: model.UnknownKind, Origin: o.Origin(""),
			Text: "nothing reads " + o.APIVersion + " " + o.Kind + ": ignored",
		})
	}
	for i := range readers {
		if len(groups[i]) == 0 {
			continue
		}
		read(i, groups[i], func(f model.Fragment, n []model.Notice) {
			all.Merge(f)
			notices = append(notices, n...)
		})
	}
	slices.SortStableFunc(notices, func(a, b model.Notice) int {
		if d := files[a.Origin.File] - files[b.Origin.File]; d != 0 {
			return d
		}
		return a.Origin.Line - b.Origin.Line
	})
	return all, notices
}

func rank(files map[string]int, name string) {
	if _, ok := files[name]; !ok {
		files[name] = len(files)
	}
}

// Group of an apiVersion; empty for the core group.
func Group(apiVersion string) string {
	group, _, ok := strings.Cut(apiVersion, "/")
	if !ok {
		return ""
	}
	return group
}

// Version of an apiVersion, without the group.
func Version(apiVersion string) string {
	return apiVersion[strings.LastIndexByte(apiVersion, '/')+1:]
}
