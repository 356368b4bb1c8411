package cli

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/kube/inject"
)

// injectCommand adds sidecars to YAML, as istioctl kube-inject does.
func injectCommand(t *terminal) *cobra.Command {
	conf := inject.Defaults()
	conf.NativeSidecars = true
	var path, namespace string
	c := &cobra.Command{
		Use:     "inject -f FILE",
		Aliases: []string{"kube-inject"},
		Short:   "add the sidecar to the pods of a Kubernetes file",
		Long: `Add the sidecar to every Pod and pod template of a Kubernetes file, as the
webhook of a cluster would, and print the result. Pods and templates that say
sidecar.istio.io/inject=false, and those of the host's network, stay as they
are; stderr tells which and why. All else passes unchanged.

The sidecars look for the control plane that tulle install puts on the cluster.`,
		Example: "  tulle inject -f shop.yaml | kubectl apply -f -",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if path == "" {
				return usagef("which file? Give -f FILE, or -f - for standard input")
			}
			if conf.Image == "" {
				conf.Image = "tulle/proxy:" + Version
			}
			var in io.Reader = os.Stdin
			if path != "-" {
				f, err := os.Open(path)
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			return conf.Stream(in, t.out, namespace, func(object, why string) { t.say("%s stays as it is: %s", object, why) })
		},
	}
	f := c.Flags()
	f.StringVarP(&path, "filename", "f", "", "file of YAML documents; - is standard input")
	f.StringVarP(&namespace, "namespace", "n", "default", "namespace of objects that name none")
	f.StringVar(&conf.Image, "image", "", "image of tulle-proxy (default tulle/proxy:VERSION)")
	f.StringVar(&conf.Revision, "revision", "", "revision of the control plane")
	f.StringVar(&conf.Discovery, "discovery", conf.Discovery, "host:port of the control plane")
	f.BoolVar(&conf.NativeSidecars, "native-sidecars", true, "the cluster's kubelets run native sidecars (Kubernetes 1.29 and later)")
	_ = c.MarkFlagFilename("filename", "yaml", "yml")
	return c
}
