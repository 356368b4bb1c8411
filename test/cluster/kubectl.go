//go:build linux

package cluster

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Kubectl runs the cluster's own kubectl as cluster-admin to its end and
// returns what it printed, without the last newline. What it said on stderr is
// in the error.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.kubectl(ctx, nil, args)
}

// Apply gives YAML to kubectl apply, server-side: no annotation repeats the
// object, and conflicts are errors.
func (c *Cluster) Apply(ctx context.Context, yaml []byte) error {
	_, err := c.kubectl(ctx, yaml, []string{"apply", "--server-side", "-f", "-"})
	return err
}

func (c *Cluster) kubectl(ctx context.Context, stdin []byte, args []string) (string, error) {
	cmd := c.KubectlCommand(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSuffix(stdout.String(), "\n"), nil
}

// KubectlCommand is a kubectl that was not started yet, for what runs on:
// port-forward, logs -f.
func (c *Cluster) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.KubectlPath(), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig, "HOME="+c.Dir, "KUBECTL_KUBERC=false")
	return cmd
}

// KubectlPath is the program, which fits the cluster's version.
func (c *Cluster) KubectlPath() string { return filepath.Join(c.bin, "kubectl") }

// Logs of a pod's container; an empty container is the pod's first.
func (c *Cluster) Logs(ctx context.Context, namespace, pod, container string) (string, error) {
	args := []string{"-n", namespace, "logs", pod}
	if container != "" {
		args = append(args, "-c", container)
	}
	return c.Kubectl(ctx, args...)
}

// In is a command with the network, files and processes of node i (from 1), or
// of the control plane's host when i is 0. It was not started yet.
func (c *Cluster) In(ctx context.Context, i int, args ...string) (*exec.Cmd, error) {
	place := host
	if i > 0 {
		place = nodeName(i)
	}
	return c.places.command(ctx, place, false, args)
}
