//go:build linux

// Command up gives a person a Kubernetes cluster to play with until Ctrl-C.
//
// In: flags. Out: a cluster, how to reach it on stdout, and nothing left of it
// at the end. What does not belong here: how the cluster is made (cluster).
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/tulle-mesh/tulle/test/cluster"
)

func main() {
	nodes := flag.Int("nodes", 2, "how many nodes, at most 9")
	build := flag.Bool("build", false, "only build the components into the cache")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if *build {
		_, err = cluster.Components(ctx, os.Stderr)
	} else {
		err = up(ctx, *nodes)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func up(ctx context.Context, nodes int) error {
	if nodes < 1 || nodes > 9 {
		return fmt.Errorf("%d nodes: want 1 to 9", nodes)
	}
	c, err := cluster.Up(ctx, cluster.Options{Nodes: nodes, Log: os.Stderr})
	if err != nil {
		return err
	}
	// Tulle is installed here once it can be (tulle install).
	fmt.Printf(`Kubernetes %s is up. In another terminal:

  export KUBECONFIG=%s PATH=%s:$PATH
  kubectl get pods -A

Logs of the components: %s/log. Ctrl-C ends it.
`, cluster.Version, c.Kubeconfig, filepath.Dir(c.KubectlPath()), c.Dir)
	<-ctx.Done()
	return c.Down()
}
