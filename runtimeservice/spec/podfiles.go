package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// maxHostname is the kernel's limit for a host name.
	maxHostname = 64
	// maxResolvConf is the most that is taken over of the node's resolv.conf.
	maxResolvConf = 1 << 20
)

// RenderResolvConf gives the pod's /etc/resolv.conf (resolv.conf(5)). Without a
// DNS configuration it is a copy of the node's, hostFile; a node without one
// gives an empty file.
func RenderResolvConf(dns *runtimeapi.DNSConfig, hostFile string) ([]byte, error) {
	const field = "config.dns_config"
	if len(dns.GetServers()) == 0 && len(dns.GetSearches()) == 0 && len(dns.GetOptions()) == 0 {
		return hostResolvConf(hostFile)
	}
	if err := checkWords(field+".searches", dns.GetSearches()); err != nil {
		return nil, err
	}
	if err := checkWords(field+".options", dns.GetOptions()); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if s := dns.GetSearches(); len(s) > 0 {
		b.WriteString("search " + strings.Join(s, " ") + "\n")
	}
	for i, s := range dns.GetServers() {
		addr, err := netip.ParseAddr(s)
		if err != nil || strings.ContainsFunc(addr.Zone(), unicode.IsSpace) || hasControl(s) {
			return nil, invalid(field+".servers["+strconv.Itoa(i)+"]", "%q is not an IP address", s)
		}
		b.WriteString("nameserver " + s + "\n")
	}
	if o := dns.GetOptions(); len(o) > 0 {
		b.WriteString("options " + strings.Join(o, " ") + "\n")
	}
	return b.Bytes(), nil
}

// checkWords refuses a value that would be more than one word of a line: it
// could add lines, and with them servers, of its own.
func checkWords(field string, words []string) error {
	for i, w := range words {
		if w == "" || strings.ContainsAny(w, "#;") || strings.ContainsFunc(w, unicode.IsSpace) || hasControl(w) {
			return invalid(field+"["+strconv.Itoa(i)+"]", "%q is not one word", w)
		}
	}
	return nil
}

func hostResolvConf(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("copy the node's resolv.conf: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxResolvConf))
	if err != nil {
		return nil, fmt.Errorf("copy the node's resolv.conf: %w", err)
	}
	return data, nil
}

// RenderHostname gives the pod's /etc/hostname.
func RenderHostname(name string) ([]byte, error) {
	const field = "config.hostname"
	if name == "" || len(name) > maxHostname {
		return nil, invalid(field, "%q does not have between 1 and %d characters", name, maxHostname)
	}
	for _, r := range name {
		if r <= ' ' || r >= 0x7f || r == '/' {
			return nil, invalid(field, "%q holds a character that a host name cannot have", name)
		}
	}
	return []byte(name + "\n"), nil
}
