//go:build linux && e2e

package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/test/cluster"
)

// place is a comment of the model's text form: which file and line a fact is
// from, which a cluster does not know.
var place = regexp.MustCompile(`(?m) *# .*$`)

// TestTranslate: the same objects mean the same from files and from a cluster,
// to the model and to a proxy's last xDS resource.
func TestTranslate(t *testing.T) {
	tulle := filepath.Join(t.TempDir(), "tulle")
	if err := cluster.Program(t.Context(), "./cmd/tulle", tulle); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	if err := kube.InstallAPIs(ctx); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", "translate.yaml")
	yaml, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := kube.Apply(ctx, yaml); err != nil {
		t.Fatal(err)
	}
	translate := func(args ...string) (out, said string) {
		t.Helper()
		var stdout, stderr strings.Builder
		cmd := exec.CommandContext(ctx, tulle, append([]string{"translate"}, args...)...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("tulle translate %v: %v\n%s", args, err, &stderr)
		}
		return place.ReplaceAllString(stdout.String(), ""), stderr.String()
	}
	for _, c := range []struct {
		what string
		args []string
		want string // something that is there, so that not nothing is compared
	}{
		{"model", nil, "reviews.e2e-translate.svc.cluster.local"},
		{"a gateway's model", []string{"--gateway", "e2e-translate/edge"}, "shop.example.com"},
		{"a gateway's xDS", []string{"--gateway", "e2e-translate/edge", "-o", "xds"}, "outbound|9080|v2|reviews.e2e-translate.svc.cluster.local"},
		{"a workload's xDS", []string{"--for", "e2e-translate/legacy", "-o", "xds"}, "outbound|9080||reviews.e2e-translate.svc.cluster.local"},
	} {
		fromFile, saidOfFile := translate(append([]string{"-f", file}, c.args...)...)
		fromCluster, saidOfCluster := translate(append([]string{"--cluster", "--kubeconfig", kube.Kubeconfig, "-n", "e2e-translate"}, c.args...)...)
		if !strings.Contains(fromFile, c.want) {
			t.Errorf("%s: %s is not in\n%s", c.what, c.want, fromFile)
		}
		if fromFile != fromCluster {
			t.Errorf("%s differs.\nFrom the file:\n%s\nFrom the cluster:\n%s\nSaid of the file:\n%s\nSaid of the cluster:\n%s",
				c.what, fromFile, fromCluster, saidOfFile, saidOfCluster)
		}
	}
}
