//go:build linux

package redirect

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// part of a rule, in both its forms: a condition, or what happens.
type part struct {
	text string
	do   []expr.Any
}

// Registers: one of 16 bytes for conditions, three of 4 for keys of sets, and
// one for what is redirected to.
const (
	reg    = unix.NFT_REG_1
	regKey = unix.NFT_REG32_00
	regTo  = unix.NFT_REG_1
)

func meta(text string, key expr.MetaKey, op expr.CmpOp, value []byte) part {
	return part{text, []expr.Any{&expr.Meta{Key: key, Register: reg}, &expr.Cmp{Op: op, Register: reg, Data: value}}}
}

// loName is "lo" as an interface name of the kernel.
func loName() []byte { return append([]byte("lo"), make([]byte, unix.IFNAMSIZ-2)...) }

// Conditions.
var (
	isV4         = meta("meta nfproto ipv4", expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{unix.NFPROTO_IPV4})
	isV6         = meta("meta nfproto ipv6", expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{unix.NFPROTO_IPV6})
	tcp          = meta("meta l4proto tcp", expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{unix.IPPROTO_TCP})
	notTCP       = meta("meta l4proto != tcp", expr.MetaKeyL4PROTO, expr.CmpOpNeq, []byte{unix.IPPROTO_TCP})
	udp          = meta("meta l4proto udp", expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{unix.IPPROTO_UDP})
	notUDP       = meta("meta l4proto != udp", expr.MetaKeyL4PROTO, expr.CmpOpNeq, []byte{unix.IPPROTO_UDP})
	overLoopback = meta(`oifname "lo"`, expr.MetaKeyOIFNAME, expr.CmpOpEq, loName())
)

func userIs(id uint32) part {
	return meta(fmt.Sprintf("meta skuid %d", id), expr.MetaKeySKUID, expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(id))
}

func groupIs(id uint32) part {
	return meta(fmt.Sprintf("meta skgid %d", id), expr.MetaKeySKGID, expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(id))
}

func tcpTo(n uint16) part { return portIs("tcp", tcp, n) }
func udpTo(n uint16) part { return portIs("udp", udp, n) }

func portIs(name string, protocol part, n uint16) part {
	return part{fmt.Sprintf("%s dport %d", name, n), append(append([]expr.Any{}, protocol.do...),
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binary.BigEndian.AppendUint16(nil, n)})}
}

// Offsets of addresses in the network header (RFC 791 3.1, RFC 8200 3).
const (
	from4, to4 = 12, 16
	from6, to6 = 8, 24
)

func fromAddress(a netip.Addr) part {
	p := netip.PrefixFrom(a, a.BitLen())
	if a.Is4() {
		return inPrefix("ip saddr "+a.String(), isV4, from4, p)
	}
	return inPrefix("ip6 saddr "+a.String(), isV6, from6, p)
}

func toPrefix(p netip.Prefix) part {
	p = p.Masked()
	text := p.String()
	if p.IsSingleIP() {
		text = p.Addr().String()
	}
	if p.Addr().Is4() {
		return inPrefix("ip daddr "+text, isV4, to4, p)
	}
	return inPrefix("ip6 daddr "+text, isV6, to6, p)
}

func inPrefix(text string, family part, offset uint32, p netip.Prefix) part {
	a := p.Addr().AsSlice()
	mask := make([]byte, len(a))
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	do := append(append([]expr.Any{}, family.do...),
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(len(a))})
	if !p.IsSingleIP() {
		do = append(do, &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: uint32(len(a)), Mask: mask, Xor: make([]byte, len(a))})
	}
	return part{text, append(do, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: a})}
}

// What happens.
var (
	leave  = part{"return", []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}}
	refuse = part{"reject with icmpx port-unreachable",
		[]expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}}
)

func redirectTo(port uint16) part {
	return part{fmt.Sprintf("redirect to :%d", port), []expr.Any{
		&expr.Immediate{Register: regTo, Data: binary.BigEndian.AppendUint16(nil, port)},
		&expr.Redir{RegisterProtoMin: regTo, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED}}}
}

// maxRefused bounds the destinations that are remembered in each set.
const maxRefused = 512

// refusedSet remembers destinations of one kind that were refused.
type refusedSet struct {
	name     string
	text     string // its type, for nft
	types    []nftables.SetDatatype
	family   part
	protocol part
	v6, udp  bool
}

func refusedSets(v6 bool) []refusedSet {
	out := []refusedSet{
		{"udp4", "ipv4_addr . inet_service", []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetService}, isV4, udp, false, true},
		{"other4", "ipv4_addr . inet_proto", []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetProto}, isV4, notUDP, false, false},
	}
	if v6 {
		out = append(out,
			refusedSet{"udp6", "ipv6_addr . inet_service", []nftables.SetDatatype{nftables.TypeIP6Addr, nftables.TypeInetService}, isV6, udp, true, true},
			refusedSet{"other6", "ipv6_addr . inet_proto", []nftables.SetDatatype{nftables.TypeIP6Addr, nftables.TypeInetProto}, isV6, notUDP, true, false})
	}
	return out
}

// note adds the packet's destination to the set.
func (s *refusedSet) note() part {
	ip, offset, size := "ip daddr", uint32(to4), uint32(4)
	if s.v6 {
		ip, offset, size = "ip6 daddr", to6, 16
	}
	second := "meta l4proto"
	do := []expr.Any{&expr.Payload{DestRegister: regKey, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size}}
	if s.udp {
		second = "udp dport"
		do = append(do, &expr.Payload{DestRegister: regKey + size/4, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
	} else {
		do = append(do, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regKey + size/4})
	}
	return part{fmt.Sprintf("add @%s { %s . %s }", s.name, ip, second),
		append(do, &expr.Dynset{SrcRegKey: regKey, SetName: s.name, Operation: unix.NFT_DYNSET_OP_ADD})}
}
