//go:build linux

package standalone

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// listening is where processes listen for TCP, sorted by port.
func listening(pids []int) []netip.AddrPort {
	var out []netip.AddrPort
	for _, pid := range pids {
		own := map[string]bool{} // inodes of its sockets
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, f := range fds {
			if to, err := os.Readlink(f); err == nil && strings.HasPrefix(to, "socket:[") {
				own[strings.Trim(to, "socket:[]")] = true
			}
		}
		for _, table := range []string{"tcp", "tcp6"} {
			out = append(out, listeners(fmt.Sprintf("/proc/%d/net/%s", pid, table), own)...)
		}
	}
	slices.SortFunc(out, func(a, b netip.AddrPort) int {
		if a.Port() != b.Port() {
			return int(a.Port()) - int(b.Port())
		}
		return a.Compare(b)
	})
	return slices.Compact(out)
}

// listeners reads a table of sockets (proc(5), /proc/net/tcp).
func listeners(path string, own map[string]bool) (out []netip.AddrPort) {
	const listen, state, inode = "0A", 3, 9
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	for in.Scan() {
		w := strings.Fields(in.Text())
		if len(w) <= inode || w[state] != listen || !own[w[inode]] {
			continue
		}
		if a, ok := procAddr(w[1]); ok {
			out = append(out, a)
		}
	}
	return out
}

// procAddr reads "0100007F:1F90": words of the address in the machine's order,
// the port in hexadecimal.
func procAddr(s string) (netip.AddrPort, bool) {
	addr, port, ok := strings.Cut(s, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	b, err2 := hex.DecodeString(addr)
	if !ok || err != nil || err2 != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), ok
}
