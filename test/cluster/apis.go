//go:build linux

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// GatewayAPI is the module whose CRDs a cluster gets, with its version.
const GatewayAPI = "sigs.k8s.io/gateway-api@v1.6.3"

// InstallAPIs gives the cluster the CRDs of Istio, in the version of the
// product's own Istio API module, and of the Gateway API (all channels), and
// waits until the API server serves them. What an installation brought is replaced.
func (c *Cluster) InstallAPIs(ctx context.Context) error { return c.installAPIs(ctx, true) }

// InstallGatewayAPI gives the cluster the Gateway API alone, as a user does who
// then installs a mesh.
func (c *Cluster) InstallGatewayAPI(ctx context.Context) error { return c.installAPIs(ctx, false) }

func (c *Cluster) installAPIs(ctx context.Context, istio bool) error {
	files, err := crdFiles(ctx, istio)
	if err != nil {
		return err
	}
	var all bytes.Buffer
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		fmt.Fprintf(&all, "---\n%s\n", b)
	}
	if _, err := c.kubectl(ctx, all.Bytes(), []string{"apply", "--server-side", "--force-conflicts", "--validate=false", "-f", "-"}); err != nil {
		return err
	}
	_, err = c.Kubectl(ctx, "wait", "--for=condition=Established", "--timeout=5m", "crd", "--all")
	return err
}

// crdFiles in the modules' own directories.
func crdFiles(ctx context.Context, withIstio bool) ([]string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	gateway, err := moduleDir(ctx, root, "mod", "download", "-json", GatewayAPI)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(gateway, "config", "crd", "experimental", "gateway.networking.k8s.io_*s.yaml"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, f := range files {
		if filepath.Base(f) != "gateway.networking.k8s.io_vap_safeupgrades.yaml" { // a policy, not an API
			out = append(out, f)
		}
	}
	if !withIstio {
		return out, nil
	}
	istio, err := moduleDir(ctx, root, "list", "-m", "-json", "istio.io/api")
	if err != nil {
		return nil, err
	}
	return append(out, filepath.Join(istio, "kubernetes", "customresourcedefinitions.gen.yaml")), nil
}

// moduleDir is the directory that a go command names.
func moduleDir(ctx context.Context, root string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	out, err := cmd.Output()
	var m struct{ Dir, Error string }
	if json.Unmarshal(out, &m) == nil && m.Error != "" {
		return "", fmt.Errorf("go %v: %s", args, m.Error)
	}
	if err != nil {
		return "", fmt.Errorf("go %v: %w", args, err)
	}
	return m.Dir, nil
}
