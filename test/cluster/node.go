//go:build linux

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// StartNode starts node i (from 1), or starts it anew after KillNode. It
// returns when its container runtime has all images; see NodeReady.
func (c *Cluster) StartNode(ctx context.Context, i int) error {
	n := nodeName(i)
	if err := c.places.make(n); err != nil {
		return err
	}
	if err := c.nodeNetwork(ctx, i); err != nil {
		return err
	}
	if err := c.nodeFiles(i); err != nil {
		return err
	}
	if _, err := c.places.run(ctx, n, false, "sh", "-ec", nodeScript, "sh", n, nodeIP(i), c.etc(n), filepath.Base(c.Dir)+"-"+n, filepath.Join(c.Dir, "log", n+"-pods")); err != nil {
		return err
	}
	if err := c.containerd(ctx, n); err != nil {
		return err
	}
	if err := c.component(n, "kubelet", "--config="+c.etc(n)+"/kubelet.json", "--kubeconfig="+c.etc(n+".kubeconfig"),
		"--hostname-override="+n, "--node-ip="+nodeIP(i)+","+nodeIP6(i), "--root-dir=/var/lib/kubelet"); err != nil {
		return err
	}
	return c.component(n, "kube-proxy", "--config="+c.etc(n)+"/proxy.json")
}

// KillNode ends node i as a power cut does: every process, its pods, its
// network. The API server still has its Node object.
func (c *Cluster) KillNode(i int) error {
	n := nodeName(i)
	c.mu.Lock()
	for id, d := range c.daemons {
		if strings.HasPrefix(id, n+"-") {
			d.meant.Store(true)
			delete(c.daemons, id)
		}
	}
	c.mu.Unlock()
	return c.places.end(n)
}

// NodeReady waits until the API server says that node i is ready.
func (c *Cluster) NodeReady(ctx context.Context, i int) error {
	return c.until(ctx, nodeName(i), func() error {
		out, err := c.Kubectl(ctx, "get", "node", nodeName(i), "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if err == nil && out != "True" {
			err = errors.New("not ready: " + out)
		}
		return err
	})
}

// nodeScript makes a node's machine: a host name, directories in memory, its
// own /etc, routing, control groups. Its arguments are the node's name and
// address, a directory, the control groups' name, and where pods' logs go.
const nodeScript = `
name=$1 address=$2 dir=$3 group=$4 logs=$5
hostname $name
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir -p $logs /run/etc /run/work
mount --bind $logs /var/log
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/work overlay /etc
echo $name > /etc/hostname
printf '127.0.0.1 localhost\n::1 localhost\n%s %s\n' $address $name > /etc/hosts
od -An -N16 -tx1 /dev/urandom | tr -d ' \n' > /etc/machine-id
: > $dir/resolv.conf
mount --make-rshared /
cd /proc/sys/net
echo 1 > ipv4/ip_forward
echo 1 > ipv4/conf/all/route_localnet
echo 1 > ipv6/conf/all/forwarding
while read -r _ at kind _; do
  case $kind in cgroup|cgroup2) ;; *) continue ;; esac
  mkdir $at/$group
  for f in cpuset.cpus cpuset.mems; do
    if [ -e $at/$f ] && [ $kind = cgroup ]; then cat $at/$f > $at/$group/$f; fi
  done
done < /proc/self/mounts
`

// containerd starts the container runtime and gives it the images.
func (c *Cluster) containerd(ctx context.Context, n string) error {
	d, err := c.places.daemon(n, c.log(n+"-containerd"), c.componentEnded, "containerd", "-c", c.etc(n)+"/containerd.toml")
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.daemons[n+"-containerd"] = d
	images := c.images
	c.mu.Unlock()
	if err := c.until(ctx, "containerd of "+n, func() error {
		_, err := c.places.run(ctx, n, false, "ctr", "version")
		return err
	}); err != nil {
		return err
	}
	for _, archive := range images {
		if err := c.load(ctx, n, archive); err != nil {
			return err
		}
	}
	return nil
}

// nodeFiles writes the configurations of a node's programs.
func (c *Cluster) nodeFiles(i int) error {
	n := nodeName(i)
	dir := c.etc(n)
	if err := os.MkdirAll(filepath.Join(dir, "cni"), 0o755); err != nil {
		return err
	}
	replace := strings.NewReplacer(
		"$DIR", dir, "$PKI", strings.TrimSuffix(c.pki(""), "/"), "$NODE", n, "$ADDRESS", nodeIP(i), "$GROUP", filepath.Base(c.Dir)+"-"+n,
		"$POD4", podNet(i), "$POD6", podNet6(i), "$PODS", podRange+","+podRange6, "$DNS", dnsIP,
		"$PAUSE", pauseImage, "$KUBECONFIG", c.etc("proxy.kubeconfig"),
	)
	for file, text := range map[string]string{
		"containerd.toml": containerdConfig, "cni/tulle.conflist": networkConfig, "kubelet.json": kubeletConfig, "proxy.json": proxyConfig,
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(replace.Replace(text)), 0o644); err != nil {
			return fmt.Errorf("configure %s: %w", n, err)
		}
	}
	return nil
}

// containerdConfig: restrict_oom_score_adj because root here may lack
// CAP_SYS_RESOURCE, without which runc could not start any pod.
const containerdConfig = `version = 2
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE"
  disable_apparmor = true
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$DIR/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
`

// networkConfig routes every pod: no bridge, so nothing hangs on br_netfilter,
// and no masquerading, so peers see a pod's own address.
const networkConfig = `{"cniVersion": "0.4.0", "name": "tulle", "plugins": [
 {"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": "$POD4"}], [{"subnet": "$POD6"}]],
  "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
`

const kubeletConfig = `{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
 "address": "$ADDRESS", "healthzBindAddress": "127.0.0.1",
 "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": "$PKI/ca.crt"}},
 "authorization": {"mode": "Webhook"}, "tlsCertFile": "$PKI/$NODE-serving.crt", "tlsPrivateKeyFile": "$PKI/$NODE-serving.key",
 "cgroupDriver": "cgroupfs", "cgroupRoot": "/$GROUP", "failCgroupV1": false, "failSwapOn": false,
 "clusterDNS": ["$DNS"], "clusterDomain": "cluster.local", "resolvConf": "$DIR/resolv.conf",
 "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
 "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
 "imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
 "syncFrequency": "10s", "nodeStatusUpdateFrequency": "2s", "registryPullQPS": 0, "eventRecordQPS": 0}
`

// proxyConfig: no sysctl about conntrack, which a namespace may not write.
const proxyConfig = `{"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
 "bindAddress": "$ADDRESS", "healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": "127.0.0.1:10249",
 "clientConnection": {"kubeconfig": "$KUBECONFIG"}, "clusterCIDR": "$PODS", "hostnameOverride": "$NODE", "mode": "iptables",
 "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
 "iptables": {"minSyncPeriod": "0s", "syncPeriod": "30s"}}
`
