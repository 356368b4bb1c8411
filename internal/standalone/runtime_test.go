package standalone

import "testing"

func TestRuntimeFlag(t *testing.T) {
	var r Runtime
	for _, bad := range []string{"", "x", "x.y=1", "overload.global_downstream_max_connections=0", "overload.connections=5"} {
		if r.Set(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	for _, good := range []string{"overload.global_downstream_max_connections=9", "envoy.resource_limits.listener.0.0.0.0_8080.connection_limit=5"} {
		if err := r.Set(good); err != nil {
			t.Error(err)
		}
	}
	const want = "envoy.resource_limits.listener.0.0.0.0_8080.connection_limit=5 overload.global_downstream_max_connections=9"
	if r.String() != want {
		t.Error(r.String())
	}
}
