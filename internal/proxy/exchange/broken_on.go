//go:build tulle_broken

package exchange

// breakAt panics where the request's field x-broken says so: at "head", at
// "body", when the upstream is "ready", at the "answer", or in a "timer" that it
// arms at the head.
func (x *Exchange) breakAt(place string) {
	switch want := string(x.req.Get("x-broken")); {
	case want == place:
		panic("x-broken: " + place)
	case want == "timer" && place == "head":
		x.env.Loop.Arm(&x.pause, 0, func() { panic("x-broken: timer") })
	}
}
