//go:build linux

package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// apiPort of the API server, and etcd's, inside.
const (
	apiPort  = "6443"
	etcdURL  = "http://127.0.0.1:2379"
	etcdPeer = "http://127.0.0.1:2380"
)

// kubeconfigs writes one for each component, and the user's.
func (c *Cluster) kubeconfigs() error {
	names := []string{"controllers", "scheduler", "proxy"}
	for i := 1; i <= c.options.Nodes; i++ {
		names = append(names, nodeName(i))
	}
	for _, n := range names {
		if err := writeKubeconfig(c.etc(n+".kubeconfig"), c.pki(""), n, "https://"+hostIP+":"+apiPort); err != nil {
			return err
		}
	}
	return writeKubeconfig(c.Kubeconfig, c.pki(""), "admin", "https://"+c.api.Addr().String())
}

// InsideKubeconfig is a file as Kubeconfig is, for what runs by In.
func (c *Cluster) InsideKubeconfig() (string, error) {
	file := c.etc("admin.kubeconfig")
	return file, writeKubeconfig(file, c.pki(""), "admin", "https://"+hostIP+":"+apiPort)
}

// controlPlane starts etcd, the API server and, when that is ready, the
// controllers and the scheduler.
func (c *Cluster) controlPlane(ctx context.Context) error {
	data := filepath.Join(c.Dir, "etcd")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	if _, err := c.places.run(ctx, host, false, "mount", "-t", "tmpfs", "tmpfs", data); err != nil {
		return err
	}
	if err := c.component(host, "etcd", "--name=e", "--data-dir="+data, "--unsafe-no-fsync",
		"--listen-client-urls="+etcdURL, "--advertise-client-urls="+etcdURL,
		"--listen-peer-urls="+etcdPeer, "--initial-advertise-peer-urls="+etcdPeer, "--initial-cluster=e="+etcdPeer); err != nil {
		return err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	c.say("API server ready")
	if c.options.APIOnly {
		return nil
	}
	kubeconfig := c.etc("controllers.kubeconfig")
	if err := c.component(host, "kube-controller-manager",
		"--kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig, "--authorization-kubeconfig="+kubeconfig,
		"--root-ca-file="+c.pki("ca.crt"), "--service-account-private-key-file="+c.pki("accounts.key"), "--use-service-account-credentials",
		"--cluster-signing-cert-file="+c.pki("ca.crt"), "--cluster-signing-key-file="+c.pki("ca.key"),
		"--leader-elect=false", "--bind-address=127.0.0.1", "--controllers=*,-nodeipam",
		"--horizontal-pod-autoscaler-sync-period=5s", "--node-monitor-grace-period=8s"); err != nil {
		return err
	}
	kubeconfig = c.etc("scheduler.kubeconfig")
	return c.component(host, "kube-scheduler", "--kubeconfig="+kubeconfig, "--authentication-kubeconfig="+kubeconfig,
		"--authorization-kubeconfig="+kubeconfig, "--leader-elect=false", "--bind-address=127.0.0.1")
}

// StartAPIServer starts the API server and waits until it is ready. Up has
// done so; it is for tests that end it, by KillAPIServer.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	if err := c.component(host, "kube-apiserver",
		"--advertise-address="+hostIP, "--bind-address="+hostIP, "--secure-port="+apiPort, "--etcd-servers="+etcdURL,
		"--service-cluster-ip-range="+serviceRange+","+serviceRange6,
		"--tls-cert-file="+c.pki("apiserver.crt"), "--tls-private-key-file="+c.pki("apiserver.key"), "--client-ca-file="+c.pki("ca.crt"),
		"--kubelet-client-certificate="+c.pki("apiserver-kubelet.crt"), "--kubelet-client-key="+c.pki("apiserver-kubelet.key"),
		"--kubelet-certificate-authority="+c.pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file="+c.pki("accounts.pub"), "--service-account-signing-key-file="+c.pki("accounts.key"),
		"--requestheader-client-ca-file="+c.pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+c.pki("front-proxy-client.crt"), "--proxy-client-key-file="+c.pki("front-proxy-client.key"),
		"--enable-aggregator-routing", // no kube-proxy where the API server runs
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged"); err != nil {
		return err
	}
	client, err := c.httpClient()
	if err != nil {
		return err
	}
	return c.until(ctx, "the API server", func() error {
		r, err := client.Get("https://" + c.api.Addr().String() + "/readyz")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		if r.StatusCode != http.StatusOK {
			return fmt.Errorf("/readyz: %s", r.Status)
		}
		return nil
	})
}

// httpClient speaks to the API server as cluster-admin.
func (c *Cluster) httpClient() (*http.Client, error) {
	pair, err := tls.LoadX509KeyPair(c.pki("admin.crt"), c.pki("admin.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(c.pki("ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots},
	}}, nil
}

// KillAPIServer ends the API server as kill -9 does; etcd stays.
func (c *Cluster) KillAPIServer() error {
	c.mu.Lock()
	d := c.daemons[host+"-kube-apiserver"]
	c.mu.Unlock()
	return d.kill()
}

// component starts one in a place.
func (c *Cluster) component(place, name string, flags ...string) error {
	id := place + "-" + name
	d, err := c.places.daemon(place, c.log(id), c.componentEnded, append([]string{filepath.Join(c.bin, name)}, flags...)...)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.daemons[id] = d
	c.mu.Unlock()
	return nil
}
