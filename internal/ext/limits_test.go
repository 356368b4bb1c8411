package ext

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseRuntime(t *testing.T) {
	const all, one = LimitAll, "envoy.resource_limits.listener.0.0.0.0_80.connection_limit"
	for _, x := range []struct {
		in   map[string]string
		want string
	}{
		{nil, "{0 map[]} []"},
		{map[string]string{all: "7", one: "3", "x.y": "z", "a": ""}, "{7 map[0.0.0.0_80:3]} [a x.y]"},
		{map[string]string{all: "99999999999"}, "{2147483647 map[]} []"},
		{map[string]string{all: "0"}, `"0" is no number of connections`},
		{map[string]string{one: "many"}, `"many" is no number of connections`},
		{map[string]string{"overload.global_downstream_max_connection": "7"}, "is no limit"},
		{map[string]string{"envoy.resource_limits.listener..connection_limit": "7"}, "is no limit"},
	} {
		c, unknown, err := ParseRuntime(x.in)
		if got := fmt.Sprint(c, unknown); err == nil && got != x.want || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("%v: %s %v, want %s", x.in, got, err, x.want)
		}
	}
}
