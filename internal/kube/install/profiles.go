package install

// profiles by name, each the ground on which the user's words are laid.
var profiles = map[string]string{
	"default": ground + `
components:
  ingressGateways:
  - {name: istio-ingressgateway, enabled: true}
`,
	"demo": ground + `
meshConfig:
  accessLogFile: /dev/stdout
components:
  ingressGateways:
  - {name: istio-ingressgateway, enabled: true}
  egressGateways:
  - {name: istio-egressgateway, enabled: true}
`,
	"minimal": ground,
	"empty":   "components: {base: {enabled: false}, pilot: {enabled: false}}",
}

// ground is what profiles share. Requests are what was measured to be needed,
// limits are Istio's.
const ground = `
values:
  global:
    istioNamespace: istio-system
    proxy:
      resources:
        requests: {cpu: 10m, memory: 32Mi}
        limits: {cpu: "2", memory: 1Gi}
  pilot:
    autoscaleEnabled: true
    autoscaleMin: 2
    autoscaleMax: 5
    cpu: {targetAverageUtilization: 80}
    resources:
      requests: {cpu: 100m, memory: 128Mi}
  gateways:
    istio-ingressgateway:
      autoscaleEnabled: true
      autoscaleMin: 2
      autoscaleMax: 5
      type: LoadBalancer
      resources:
        requests: {cpu: 100m, memory: 64Mi}
        limits: {cpu: "2", memory: 1Gi}
    istio-egressgateway:
      autoscaleEnabled: true
      autoscaleMin: 1
      autoscaleMax: 5
      type: ClusterIP
      resources:
        requests: {cpu: 100m, memory: 64Mi}
        limits: {cpu: "2", memory: 1Gi}
`
