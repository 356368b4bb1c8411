package control

import (
	"slices"

	"github.com/tulle-mesh/tulle/internal/dialect"
	"github.com/tulle-mesh/tulle/internal/dialect/gatewayapi"
	"github.com/tulle-mesh/tulle/internal/dialect/ingress"
	"github.com/tulle-mesh/tulle/internal/dialect/istio"
	"github.com/tulle-mesh/tulle/internal/dialect/kubernetes"
	"github.com/tulle-mesh/tulle/internal/dialect/tulle"
	"github.com/tulle-mesh/tulle/internal/link"
	"github.com/tulle-mesh/tulle/internal/model"
	"github.com/tulle-mesh/tulle/internal/source"
)

// Dialects are the readers of user objects, in the order in which their facts
// are merged.
var Dialects = []dialect.Reader{
	kubernetes.Reader{},
	istio.Reader{},
	gatewayapi.Reader{},
	ingress.Reader{},
	tulle.Reader{},
}

// Compiled is what a snapshot means. Immutable.
type Compiled struct {
	Fragment model.Fragment // what the readers understood, and the registered workloads
	Mesh     *link.Mesh
}

// Read is what the dialects understand of a snapshot, with every notice about
// single objects.
func Read(snap source.Snapshot) (model.Fragment, []model.Notice) {
	return dialect.ReadAll(Dialects, snap)
}

// Compile resolves a snapshot with the settings that its objects ask for. The
// notices are those of Read, then those about relations between objects.
func Compile(snap source.Snapshot) (*Compiled, []model.Notice) {
	f, notices := Read(snap)
	c, more := linked(f, nil, link.Defaults())
	return c, append(notices, more...)
}

// linked joins registered workloads to a fragment, which stays unchanged, and
// links.
func linked(f model.Fragment, workloads []*model.Workload, s model.Settings) (*Compiled, []model.Notice) {
	f.Workloads = append(slices.Clip(f.Workloads), workloads...)
	m, notices := link.Link(f, s)
	f.Workloads = m.Workloads()
	return &Compiled{Fragment: f, Mesh: m}, notices
}
