package ext

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Envoy's runtime keys that limit the connections of clients: of all listeners,
// and of one.
const (
	LimitAll       = "overload.global_downstream_max_connections"
	limitOneBefore = "envoy.resource_limits.listener."
	limitOneAfter  = ".connection_limit"
)

// Connections are limits of what clients may have open; 0 and absent: none.
type Connections struct {
	All      int            // over all listeners
	Listener map[string]int // by the listener's name
}

// ParseRuntime reads what Envoy's runtime keys say of connections. unknown are
// keys that mean nothing here, in order. A key that is meant to be a limit and is
// none is an error: who asked for one must not be left without.
func ParseRuntime(runtime map[string]string) (c Connections, unknown []string, err error) {
	for _, key := range slices.Sorted(maps.Keys(runtime)) {
		name, one := strings.CutPrefix(key, limitOneBefore)
		name, two := strings.CutSuffix(name, limitOneAfter)
		one = one && two && name != ""
		if key != LimitAll && !one {
			if strings.HasPrefix(key, "overload.") || strings.HasPrefix(key, "envoy.resource_limits.") {
				return c, nil, fmt.Errorf("%s is no limit; %s and %s<name>%s are", key, LimitAll, limitOneBefore, limitOneAfter)
			}
			unknown = append(unknown, key)
			continue
		}
		n, err := strconv.ParseUint(runtime[key], 10, 64)
		if err != nil || n == 0 {
			return c, nil, fmt.Errorf("%s: %q is no number of connections", key, runtime[key])
		}
		n = min(n, math.MaxInt32)
		if !one {
			c.All = int(n)
			continue
		}
		if c.Listener == nil {
			c.Listener = map[string]int{}
		}
		c.Listener[name] = int(n)
	}
	return c, unknown, nil
}
