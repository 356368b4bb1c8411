package model

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

// filler makes random values of model types. With full set, every field gets a
// value that is not zero.
type filler struct {
	*rand.Rand
	full   bool
	inPort bool // inside a PortPolicy, whose own Ports stay empty
}

var enumSizes = map[reflect.Type]int{
	reflect.TypeFor[Protocol]():      len(protocolNames),
	reflect.TypeFor[Resolution]():    len(resolutionNames),
	reflect.TypeFor[Injection]():     len(injectionNames),
	reflect.TypeFor[Balance]():       len(algorithmNames),
	reflect.TypeFor[H2Upgrade]():     len(upgradeNames),
	reflect.TypeFor[TLSMode]():       len(clientTLSNames),
	reflect.TypeFor[ServerTLSMode](): len(serverTLSNames),
	reflect.TypeFor[MTLSMode]():      len(mtlsNames),
	reflect.TypeFor[AuthzAction]():   len(actionNames),
	reflect.TypeFor[MatchKind]():     len(matchNames),
	reflect.TypeFor[LimitKind]():     len(limitNames),
	reflect.TypeFor[PathForm]():      len(pathFormNames),
}

func (r *filler) word() string {
	words := []string{"orders", "a b", `q"uo\te`, "x=y", "a,b", "# no", "from", ".", "new\nline", "ns/name", "é", "\xff", "*", ":", "kubernetes", "prefix:/x", "0", "tab\t", "10.0.0.1"}
	return words[r.IntN(len(words))]
}

func (r *filler) fill(v reflect.Value) {
	if !r.full && r.IntN(3) == 0 {
		return
	}
	if v.Type() == reflect.TypeFor[[]PortPolicy]() && r.inPort {
		return
	}
	if v.Type() == reflect.TypeFor[PortPolicy]() {
		r.inPort = true
		defer func() { r.inPort = false }()
	}
	switch v.Type() {
	case reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.Unix(1+r.Int64N(1e9), r.Int64N(1e9))))
		return
	case reflect.TypeFor[time.Duration]():
		v.SetInt(1 + r.Int64N(int64(time.Hour)))
		return
	case reflect.TypeFor[netip.Prefix]():
		p := netip.MustParsePrefix([]string{"10.0.0.0/8", "10.1.2.3/32", "fd00::/64"}[r.IntN(3)])
		v.Set(reflect.ValueOf(p))
		return
	case reflect.TypeFor[netip.AddrPort]():
		v.Set(reflect.ValueOf(netip.MustParseAddrPort([]string{"127.0.0.1:80", "[::1]:443"}[r.IntN(2)])))
		return
	case reflect.TypeFor[Sensitive]():
		v.SetBytes([]byte(Sensitive(nil).String()))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(r.word())
	case reflect.Bool:
		v.SetBool(r.full || r.IntN(2) == 0)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n := 200
		if size, ok := enumSizes[v.Type()]; ok {
			n = size - 1
		}
		v.SetUint(1 + r.Uint64N(uint64(n)))
	case reflect.Int:
		v.SetInt(1 + r.Int64N(1000))
	case reflect.Float64:
		v.SetFloat(r.Float64() + 0.001)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		r.fill(v.Elem())
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 && enumSizes[v.Type().Elem()] == 0 {
			v.SetBytes([]byte(r.word()))
			return
		}
		for range 1 + r.IntN(2) {
			e := reflect.New(v.Type().Elem()).Elem()
			if e.Kind() == reflect.Pointer {
				e.Set(reflect.New(e.Type().Elem()))
				r.fill(e.Elem())
			} else {
				r.fill(e)
			}
			if e.Type() == reflect.TypeFor[netip.Prefix]() && e.IsZero() {
				continue
			}
			v.Set(reflect.Append(v, e))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 1 + r.IntN(3) {
			k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			r.fill(k)
			r.fill(e)
			if e.Type() == reflect.TypeFor[Sensitive]() {
				e.SetBytes([]byte(Sensitive(nil).String()))
			}
			v.SetMapIndex(k, e)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			r.fill(v.Field(i))
		}
	default:
		panic(fmt.Sprint("no filler for ", v.Type()))
	}
}

func (r *filler) fragment() Fragment {
	var f Fragment
	v := reflect.ValueOf(&f).Elem()
	for i := range v.NumField() {
		r.fill(v.Field(i))
	}
	return f
}

func roundTrip(t *testing.T, f Fragment) {
	t.Helper()
	text := Text(f)
	g, err := Parse(text)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if !Equal(f, g) {
		t.Fatalf("not the same again:\n%s\n--- became ---\n%s", text, Text(g))
	}
}

// Every field of the model is in the text form: a field that a visitor forgot
// would come back as its zero value.
func TestTextCoversEveryField(t *testing.T) {
	for seed := range uint64(50) {
		r := &filler{rand.New(rand.NewPCG(seed, 1)), true, false}
		f := r.fragment()
		reflectNonZero(t, reflect.ValueOf(f), "Fragment")
		roundTrip(t, f)
	}
}

// reflectNonZero proves that the test above has something to forget.
func reflectNonZero(t *testing.T, v reflect.Value, path string) {
	t.Helper()
	if v.IsZero() {
		t.Fatalf("%s is zero: the filler does not know it", path)
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if f.IsExported() && f.Type != reflect.TypeFor[[]PortPolicy]() {
				reflectNonZero(t, v.Field(i), path+"."+v.Type().Field(i).Name)
			}
		}
	case reflect.Pointer:
		reflectNonZero(t, v.Elem(), path)
	case reflect.Slice:
		for i := range v.Len() {
			reflectNonZero(t, v.Index(i), path+"[]")
		}
	}
}

func FuzzTextRoundTrip(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		roundTrip(t, (&filler{rand.New(rand.NewPCG(seed, 2)), false, false}).fragment())
	})
}

// What parses is written in a form that parses to the same.
func FuzzParse(f *testing.F) {
	f.Add("service a.b name=a\n  port 80 http target=8080 # .\n")
	f.Add("routes shop/orders hosts=orders # from VirtualService shop/orders vs.yaml:3\n  http x timeout=1s # spec.http[0] :9\n    match path=prefix:\"/a b\" header=x=exact:1\n    to orders weight=90\n")
	f.Add("authz a/b DENY dry-run\n  rule\n    from principals=a,b\n")
	for seed := range uint64(3) {
		f.Add(Text((&filler{rand.New(rand.NewPCG(seed, 3)), true, false}).fragment()))
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<16 {
			return
		}
		a, err := Parse(text)
		if err != nil {
			return
		}
		for _, s := range a.Secrets {
			for k := range s.Data {
				s.Data[k] = Sensitive(Sensitive(nil).String())
			}
		}
		roundTrip(t, a)
	})
}

func TestTextIsReadable(t *testing.T) {
	vs := Origin{Kind: "VirtualService", Namespace: "shop", Name: "orders", File: "vs.yaml", Line: 1}
	svc := Origin{Kind: "Service", Namespace: "shop", Name: "orders", File: "svc.yaml", Line: 1}
	second := 2 * time.Second
	f := Fragment{
		Services: []*Service{{
			Name: "orders", Namespace: "shop", Host: "orders.shop.svc.cluster.local", Kubernetes: true,
			Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.7/32")}, Selector: map[string]string{"app": "orders"},
			Ports: []Port{{Number: 80, Name: "http", Protocol: HTTP, Target: 8080}}, Origin: svc,
		}},
		RouteSets: []*RouteSet{{
			Name: "orders", Namespace: "shop", Hosts: []string{"orders"}, Gateways: []string{"mesh"}, Origin: vs,
			HTTP: []HTTPRule{{
				Name: "canary", Timeout: &second, Origin: vs.At("spec.http[0]", 9),
				Matches: []HTTPMatch{{Path: &StringMatch{Prefix, "/v2"}, Headers: []NamedMatch{{"x-user", StringMatch{Exact, "jason"}}}, Origin: vs.At("spec.http[0].match[0]", 11)}},
				Backends: []Backend{
					{Host: "orders", Subset: "v1", Weight: 90, Origin: vs.At("spec.http[0].route[0]", 15)},
					{Host: "orders", Subset: "v2", Weight: 10, Origin: vs.At("spec.http[0].route[1]", 19)},
				},
			}},
		}},
		Secrets: []*Secret{{Name: "tls", Namespace: "shop", Data: map[string]Sensitive{"tls.key": Sensitive("hush")}}},
	}
	want := strings.TrimPrefix(`
service orders.shop.svc.cluster.local name=orders namespace=shop kubernetes address=10.0.0.7/32 select=app=orders  # from Service shop/orders svc.yaml:1
  port 80 http name=http target=8080

routes shop/orders hosts=orders gateways=mesh  # from VirtualService shop/orders vs.yaml:1
  http canary timeout=2s  # spec.http[0] :9
    match path=prefix:/v2 header=x-user=exact:jason  # spec.http[0].match[0] :11
    to orders subset=v1 weight=90  # spec.http[0].route[0] :15
    to orders subset=v2 weight=10  # spec.http[0].route[1] :19

secret shop/tls data=tls.key=[redacted]
`, "\n")
	if got := Text(f); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"nonsense x":                              "line 1: unknown word nonsense",
		"service a b":                             "line 1: service: unknown word b",
		"service a colour=red":                    "line 1: service: unknown or repeated attribute colour",
		"service a\n   port 80 http":              "line 2: wrong indentation",
		"service a\n    port 80 http":             "line 2: wrong indentation",
		"service a\n  port 80 smtp":               `line 2: port: "smtp" is none of auto, http`,
		"service a\n  port 99999 http":            `line 2: port: "99999" is not a number`,
		"service a\n  door 80":                    `line 1: service: line 2: unknown line "door"`,
		"service \"a":                             "line 1: a quote is not closed",
		"workload a":                              "line 1: workload: want namespace/name",
		"routes a/b\n  http x timeout=soon":       "line 2: http: timeout: time: invalid duration",
		"namespace a name=b":                      "line 1: namespace: unknown or repeated attribute name",
		"gateway a/b # from Gateway a/b f:x":      `line 1: gateway: origin: "x" is no line`,
		"service a " + strings.Repeat("x ", 5000): "words, more than 4096",
	} {
		_, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%.60q): got %v, want %q", text, err, want)
		}
	}
}

func TestEqualSeesDifferences(t *testing.T) {
	a := Fragment{Services: []*Service{{Host: "a", Selector: map[string]string{}}}}
	b := Fragment{Services: []*Service{{Host: "a"}}, Workloads: []*Workload{}}
	if !Equal(a, b) {
		t.Error("nil and empty differ")
	}
	b.Services[0].Ports = []Port{{Number: 1}}
	if Equal(a, b) {
		t.Error("a port more is not seen")
	}
	s := func(v string) Fragment {
		return Fragment{Secrets: []*Secret{{Name: "s", Data: map[string]Sensitive{"k": Sensitive(v)}}}}
	}
	if Equal(s("1"), s("2")) {
		t.Error("secret values are not compared")
	}
}
