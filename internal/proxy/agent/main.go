//go:build linux

package agent

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/tulle-mesh/tulle/internal/proxy/agent/fds"
	"github.com/tulle-mesh/tulle/internal/redirect"
)

// ControlFD is the descriptor of the socket to tulle run: the agent sends
// Events and gets Orders, both as lines of JSON. When the other end is closed,
// everything ends.
const ControlFD = 3

// Order is a line that the agent gets; one field is set.
type Order struct {
	Start bool    `json:"start,omitempty"` // the program may begin
	Run   *Errand `json:"run,omitempty"`   // another command, beside the program
	Kill  int     `json:"kill,omitempty"`  // the errand with that number
}

// Errand is a command that runs beside the program, with its environment and
// its rights; what it prints is dropped.
type Errand struct {
	ID   int      `json:"id"` // not 0
	Args []string `json:"args"`
}

// maxErrands run at a time; further ones fail.
const maxErrands = 16

// Event is a line that the agent sends.
type Event struct {
	Ready   bool     `json:"ready,omitempty"`   // the place is made, sockets can be had
	Failed  string   `json:"failed,omitempty"`  // why it could not be made
	Started int      `json:"started,omitempty"` // the program's process id inside
	Refused []string `json:"refused,omitempty"` // what the mesh does not carry, as "UDP to 8.8.8.8:123"
	Ran     int      `json:"ran,omitempty"`     // the errand with that number has ended
	Status  int      `json:"status,omitempty"`  // of Ran, as shells tell it
}

// settings are the flags.
type settings struct {
	socket     string       // where the sidecar gets its sockets
	addresses  []netip.Addr // of the program, first the one it is known by
	resolv     string       // file that is put in the place of /etc/resolv.conf
	foreground bool         // the terminal's signals reach the program by themselves
	check      bool         // make the place, say how it went, end
	command    []string
}

// Main is the program "tulle-proxy agent"; it returns the exit code.
func Main(args []string, stderr io.Writer) int {
	if len(args) > 0 && args[0] == execWord {
		return execProgram(args[1:], stderr)
	}
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(20)
	s, err := parse(args, stderr)
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		fmt.Fprintln(stderr, "tulle-proxy agent:", err)
		return 2
	}
	code, err := s.run()
	if err != nil {
		fmt.Fprintln(stderr, "tulle-proxy agent:", err)
	}
	return code
}

func parse(args []string, stderr io.Writer) (*settings, error) {
	s := &settings{}
	f := flag.NewFlagSet("tulle-proxy agent", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprintln(stderr, "tulle-proxy agent is the first process beside a program in namespaces of its own; tulle run starts it.")
		f.PrintDefaults()
	}
	f.StringVar(&s.socket, "socket", "", "unix socket where the sidecar gets sockets")
	f.Func("address", "address of the program; may be repeated", func(t string) error {
		a, err := netip.ParseAddr(t)
		if err == nil {
			s.addresses = append(s.addresses, a)
		}
		return err
	})
	f.StringVar(&s.resolv, "resolv", "", "file that stands in for /etc/resolv.conf")
	f.BoolVar(&s.foreground, "foreground", false, "the program reads the terminal")
	f.BoolVar(&s.check, "check", false, "make the place and end, to see whether it can be made")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	s.command = f.Args()
	switch {
	case os.Getpid() != 1:
		return nil, errors.New("it must be the first process of namespaces of its own; tulle run --mode namespaces starts it so")
	case len(s.addresses) == 0:
		return nil, errors.New("--address is missing")
	case !s.check && (s.socket == "" || len(s.command) == 0):
		return nil, errors.New("--socket and a command are needed")
	}
	return s, nil
}

// run makes the place and stays in it until the program has ended.
func (s *settings) run() (int, error) {
	control := &control{f: os.NewFile(ControlFD, "control")}
	if err := s.prepare(); err != nil {
		control.send(Event{Failed: err.Error()})
		return 1, nil // told already
	}
	if s.check {
		control.send(Event{Ready: true})
		return 0, nil
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: s.socket, Net: "unixpacket"})
	if err != nil {
		err = fmt.Errorf("socket for the sidecar: %w", err)
		control.send(Event{Failed: err.Error()})
		return 1, nil
	}
	defer l.Close()
	served := make(chan error, 1)
	go func() { served <- fds.Serve(l) }()
	control.send(Event{Ready: true})
	orders := control.orders()
	if o, ok := <-orders; !ok || !o.Start {
		return 1, nil // nobody wants it any more
	}
	return s.program(control, orders)
}

// prepare makes the place. Its errors say which piece the kernel denies.
func (s *settings) prepare() error {
	if err := s.mounts(); err != nil {
		return err
	}
	if err := network(s.addresses); err != nil {
		return err
	}
	if err := redirect.Apply(s.plan()); err != nil {
		return fmt.Errorf("redirect rules: %w", err)
	}
	return nil
}

// plan is what is captured: everything, but what programs of the place say to
// each other. Of 127.0.0.0/8 the upper quarter of the lower half is where the
// programs of a standalone mesh have their addresses.
func (s *settings) plan() *redirect.Plan {
	p := &redirect.Plan{Outbound: redirect.OutboundPort, DNS: redirect.DNSPort, Refuse: true,
		Sources: []netip.Addr{netip.MustParseAddr("127.0.0.6")}}
	for _, a := range s.addresses {
		p.Exclude = append(p.Exclude, netip.PrefixFrom(a, a.BitLen()))
		p.IPv6 = p.IPv6 || a.Is6()
	}
	p.Exclude = append(p.Exclude, netip.MustParsePrefix("127.0.0.0/10"), netip.MustParsePrefix("127.128.0.0/9"))
	if p.IPv6 {
		p.Sources = append(p.Sources, netip.MustParseAddr("::6"))
		p.Exclude = append(p.Exclude, netip.MustParsePrefix("::1/128"))
	}
	return p
}

// control is the socket to tulle run.
type control struct{ f *os.File }

func (c *control) send(e Event) {
	b, err := json.Marshal(e)
	if err != nil {
		return
	}
	_, _ = c.f.Write(append(b, '\n')) // when nobody hears it, the other side says so
}

// orders are those that come; closed at the end.
func (c *control) orders() <-chan Order {
	out := make(chan Order)
	go func() {
		defer close(out)
		in := json.NewDecoder(c.f)
		for {
			var o Order
			if in.Decode(&o) != nil {
				return
			}
			out <- o
		}
	}()
	return out
}
