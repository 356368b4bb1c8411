package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/control"
	"github.com/tulle-mesh/tulle/internal/explain"
)

// explainCommand answers what would happen to a request.
func explainCommand(t *terminal) *cobra.Command {
	var p paths
	var q explain.Query
	var headers []string
	var output string
	var asJSON bool
	c := &cobra.Command{
		Use:   "explain (-f PATH... | --cluster) (--from NS/WORKLOAD | --gateway NS/NAME) METHOD URL",
		Short: "tell what would happen to a request, and why",
		Long: `Tell what would happen to a request, and why, without sending it.

The decision is made by the proxy's own code on the configuration that the
caller's proxy would be given: which listener takes the connection, which
virtual host and route match, what is rewritten, where it goes; and on to the
inbound policies of the destination: mTLS and authorization. Each step names
the object, field and file:line that decided.

--from takes a Pod, a WorkloadEntry or a Deployment. The destination is found
by the route; --to chooses another workload. --as asks as another identity, such
as cluster.local/ns/shop/sa/web. --tls says that the client itself speaks TLS.

Exit status 1: the request does not get through.`,
		Example: `  tulle explain -f mesh/ --from shop/web GET http://orders/api/7 -H 'x-user: ann'
  tulle explain -f mesh/ --gateway shop/edge GET https://shop.example.com/ --json`,
		Args: needArgs(cobra.ExactArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			if asJSON {
				output = "json"
			}
			if err := oneOf("output", output, "text", "json", "yaml"); err != nil {
				return err
			}
			for _, h := range headers {
				k, v, ok := strings.Cut(h, ":")
				if !ok || strings.TrimSpace(k) == "" {
					return usagef("-H %q: want 'name: value'", h)
				}
				q.Headers = append(q.Headers, [2]string{k, v})
			}
			if (q.From == "") == (q.Gateway == "") {
				return usagef("who calls? Give --from NS/WORKLOAD or --gateway NS/NAME")
			}
			snap, err := p.read(c.Context(), nil)
			if err != nil {
				return err
			}
			compiled, notices := control.Compile(snap)
			t.tellSome(notices)
			q.Method, q.URL = strings.ToUpper(args[0]), args[1]
			a, err := explain.Explain(compiled, q)
			if err != nil {
				return err
			}
			if err := t.answer(a, output); err != nil {
				return err
			}
			if !a.Good() {
				return errNo
			}
			return nil
		},
	}
	p.register(c)
	p.registerCluster(c)
	f := c.Flags()
	f.StringVar(&q.From, "from", "", "the calling workload, as NAMESPACE/NAME")
	f.StringVar(&q.Gateway, "gateway", "", "the Gateway through which the call comes in, as NAMESPACE/NAME")
	f.StringVar(&q.To, "to", "", "the destination workload whose policies are asked, as NAMESPACE/NAME")
	f.StringVar(&q.As, "as", "", "the principal that the destination sees")
	f.Uint16Var(&q.Port, "port", 0, "destination port, instead of the URL's")
	f.BoolVar(&q.TLS, "tls", false, "the client itself speaks TLS")
	f.StringVar(&q.SNI, "sni", "", "server name in the client's TLS; default: the host")
	f.StringSliceVar(&q.ALPN, "alpn", nil, "protocols that the client's TLS offers")
	f.StringArrayVarP(&headers, "header", "H", nil, "request header 'name: value'; may be given again")
	f.StringVarP(&output, "output", "o", "text", "text, json or yaml")
	f.BoolVar(&asJSON, "json", false, "the same as -o json")
	return c
}

// answer prints an explanation.
func (t *terminal) answer(a *explain.Answer, output string) error {
	if output == "text" {
		return a.Text(t.out)
	}
	return t.print(a, output)
}
