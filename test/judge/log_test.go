package judge

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// logFormat is the access log of the judged meshes: what is the same in every
// run, and the key that says which request a line is about.
const logFormat = `{
	"key": "%REQ(X-ECHO-KEY)%",
	"method": "%REQ(:METHOD)%",
	"path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
	"authority": "%REQ(:AUTHORITY)%",
	"protocol": "%PROTOCOL%",
	"code": "%RESPONSE_CODE%",
	"flags": "%RESPONSE_FLAGS%",
	"details": "%RESPONSE_CODE_DETAILS%",
	"received": "%BYTES_RECEIVED%",
	"route": "%ROUTE_NAME%",
	"cluster": "%UPSTREAM_CLUSTER_RAW%"
}`

// addLogs gives every answer the access log lines about it. They come a little
// after the answer.
func (s *stage) addLogs(t testing.TB, results []result) {
	t.Helper()
	byKey := map[string]*answer{}
	for _, r := range results {
		if r.answer != nil {
			byKey[r.answer.Key] = r.answer
		}
	}
	deadline := time.Now().Add(patience)
	// That none is missing nothing tells but time: rounds in which no more come.
	for last, quiet := -1, 0; ; time.Sleep(100 * time.Millisecond) {
		for _, a := range byKey {
			a.Logs = map[string][]map[string]any{}
		}
		n, entered := 0, 0
		for workload, output := range s.logs {
			for line := range strings.Lines(output()) {
				var l map[string]any
				if json.Unmarshal([]byte(line), &l) != nil {
					continue
				}
				key, _ := l["key"].(string)
				if a := byKey[key]; a != nil {
					a.Logs[workload] = append(a.Logs[workload], l)
					n++
				}
			}
		}
		for _, a := range byKey {
			if len(a.Logs["web"])+len(a.Logs["edge"]) > 0 {
				entered++
			}
		}
		if quiet++; n != last {
			quiet = 0
		}
		if entered == len(byKey) && quiet == 4 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("only %d of %d requests are in the access logs of sidecar and gateway", entered, len(byKey))
			return
		}
		last = n
	}
}
