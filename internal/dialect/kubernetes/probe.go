package kubernetes

import (
	"math"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tulle-mesh/tulle/internal/model"
)

// probe is the readiness probe of a pod's first container that has one, for
// programs that run without a kubelet. A gRPC probe becomes a connect.
func probe(s *corev1.PodSpec) *model.Probe {
	for i := range s.Containers {
		c := &s.Containers[i]
		if p := c.ReadinessProbe; p != nil && c.Name != sidecarContainer {
			return probeOf(c, p)
		}
	}
	return nil
}

func probeOf(c *corev1.Container, p *corev1.Probe) *model.Probe {
	out := &model.Probe{Initial: seconds(p.InitialDelaySeconds), Period: seconds(p.PeriodSeconds), Timeout: seconds(p.TimeoutSeconds),
		Failures: uint32(max(p.FailureThreshold, 0)), Success: uint32(max(p.SuccessThreshold, 0))}
	switch {
	case p.HTTPGet != nil:
		g := p.HTTPGet
		out.Path, out.Host, out.Port = g.Path, g.Host, portOf(c, g.Port)
		if !strings.HasPrefix(out.Path, "/") {
			out.Path = "/" + out.Path
		}
		out.TLS = g.Scheme == corev1.URISchemeHTTPS
		for _, h := range g.HTTPHeaders {
			if out.Headers == nil {
				out.Headers = map[string]string{}
			}
			out.Headers[h.Name] = h.Value
		}
	case p.TCPSocket != nil:
		out.Host, out.Port = p.TCPSocket.Host, portOf(c, p.TCPSocket.Port)
	case p.GRPC != nil:
		out.Port = portOf(c, intstr.FromInt32(p.GRPC.Port))
	case p.Exec != nil && len(p.Exec.Command) > 0:
		out.Exec = p.Exec.Command
		return out
	}
	if out.Port == 0 {
		return nil // the API server would not take it
	}
	return out
}

func seconds(n int32) time.Duration { return time.Duration(max(n, 0)) * time.Second }

// portOf resolves a port by number or by the name that the container gives it;
// 0: there is none.
func portOf(c *corev1.Container, p intstr.IntOrString) uint16 {
	n := int32(0)
	if p.Type == intstr.Int {
		n = p.IntVal
	} else {
		for _, x := range c.Ports {
			if x.Name == p.StrVal {
				n = x.ContainerPort
			}
		}
	}
	if n < 1 || n > math.MaxUint16 {
		return 0
	}
	return uint16(n)
}
