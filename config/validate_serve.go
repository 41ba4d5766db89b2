package config

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// minBandwidth is the least with which a transfer makes the progress that its client
// waits for.
const minBandwidth = 64 << 10

func (k *checker) serve(c *Images) {
	const key = "images.serve."
	s := &c.Serve
	k.hostPort(key+"address", s.Address)
	for name, file := range map[string]string{"tlsCert": s.TLSCert, "tlsKey": s.TLSKey, "clientCA": s.ClientCA, "tokensFile": s.TokensFile} {
		k.optionalPath(key+name, file)
	}
	for i, pattern := range s.Repositories {
		if pattern == "" || strings.ContainsAny(pattern, " \t\n@") {
			k.fail(fmt.Sprintf("%srepositories[%d]", key, i), "%q is not a pattern of repositories", pattern)
		}
	}
	k.between(key+"maxTransfers", s.MaxTransfers, 0, 10_000)
	if s.Bandwidth != 0 && s.Bandwidth < minBandwidth {
		k.fail(key+"bandwidth", "%d is less than %d bytes in a second; 0 is no limit", s.Bandwidth, minBandwidth)
	}
	if (s.TLSCert == "") != (s.TLSKey == "") {
		k.fail(key+"tlsKey", "tlsCert and tlsKey belong together")
	}
	if s.ClientCA != "" && s.TLSCert == "" {
		k.fail(key+"clientCA", "certificates of clients need tlsCert")
	}
	if s.Address == "" {
		return
	}
	if len(s.Repositories) == 0 {
		k.fail(key+"repositories", "is empty: nothing would be served")
	}
	if !c.KeepBlobs {
		k.fail(key+"address", "images can only be served if images.keepBlobs is true")
	}
	if loopback(s.Address) {
		return
	}
	if s.TLSCert == "" {
		k.fail(key+"tlsCert", "is needed: %q can be reached from elsewhere", s.Address)
	}
	if s.TokensFile == "" && s.ClientCA == "" {
		k.fail(key+"tokensFile", "or clientCA is needed: %q can be reached from elsewhere", s.Address)
	}
}

// loopback tells whether only this machine reaches the address.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}
