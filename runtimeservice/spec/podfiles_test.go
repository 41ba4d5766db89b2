package spec

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestResolvConf(t *testing.T) {
	host := filepath.Join(t.TempDir(), "resolv.conf")
	writeFile(t, host, "nameserver 192.0.2.1\n")
	tests := []struct {
		dns  *runtimeapi.DNSConfig
		want string
	}{
		{nil, "nameserver 192.0.2.1\n"},
		{&runtimeapi.DNSConfig{}, "nameserver 192.0.2.1\n"},
		{&runtimeapi.DNSConfig{Servers: []string{"10.0.0.10", "fd00::10", "fe80::1%eth0"}, Searches: []string{"ns.svc.cluster.local", "."}, Options: []string{"ndots:5", "rotate"}},
			"search ns.svc.cluster.local .\nnameserver 10.0.0.10\nnameserver fd00::10\nnameserver fe80::1%eth0\noptions ndots:5 rotate\n"},
		{&runtimeapi.DNSConfig{Options: []string{"edns0"}}, "options edns0\n"},
	}
	for _, tc := range tests {
		got, err := RenderResolvConf(tc.dns, host)
		must(t, err)
		wantEqual(t, "resolv.conf", string(got), tc.want)
	}
	if got, err := RenderResolvConf(nil, host+".missing"); err != nil || len(got) != 0 {
		t.Errorf("copy of a missing file is %q, %v", got, err)
	}
}

func TestResolvConfRefused(t *testing.T) {
	tests := []struct {
		dns   *runtimeapi.DNSConfig
		field string
	}{
		{&runtimeapi.DNSConfig{Servers: []string{"10.0.0.1", "dns.example"}}, "servers[1]"},
		{&runtimeapi.DNSConfig{Servers: []string{"10.0.0.1\nnameserver 6.6.6.6"}}, "servers[0]"},
		{&runtimeapi.DNSConfig{Servers: []string{"fe80::1%a\nb"}}, "servers[0]"},
		{&runtimeapi.DNSConfig{Servers: []string{""}}, "servers[0]"},
		{&runtimeapi.DNSConfig{Searches: []string{"a\nnameserver 6.6.6.6"}}, "searches[0]"},
		{&runtimeapi.DNSConfig{Searches: []string{"ok", "two words"}}, "searches[1]"},
		{&runtimeapi.DNSConfig{Searches: []string{"a\u0085b"}}, "searches[0]"},
		{&runtimeapi.DNSConfig{Options: []string{"a\rb"}}, "options[0]"},
		{&runtimeapi.DNSConfig{Options: []string{""}}, "options[0]"},
		{&runtimeapi.DNSConfig{Options: []string{"a\x00"}}, "options[0]"},
	}
	for _, tc := range tests {
		_, err := RenderResolvConf(tc.dns, "/nonexistent")
		wantError(t, err, errdefs.ErrInvalidArgument, "config.dns_config."+tc.field+": ")
	}
}

func TestHostname(t *testing.T) {
	got, err := RenderHostname("web-0")
	must(t, err)
	wantEqual(t, "hostname", string(got), "web-0\n")
	for _, name := range []string{"", "a b", "a\nb", "a\x00", "a/b", "ä", strings.Repeat("a", 65)} {
		_, err := RenderHostname(name)
		wantError(t, err, errdefs.ErrInvalidArgument, "config.hostname: ")
	}
}

// FuzzResolvConf: no value adds a line or a word of its own.
func FuzzResolvConf(f *testing.F) {
	f.Add("10.0.0.1", "cluster.local", "ndots:5")
	f.Add("::1", "a\nnameserver 6.6.6.6", "b")
	f.Add("fe80::1%eth0", ".", "x;y")
	f.Fuzz(func(t *testing.T, server, search, option string) {
		got, err := RenderResolvConf(&runtimeapi.DNSConfig{Servers: []string{server}, Searches: []string{search}, Options: []string{option}}, "/nonexistent")
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Error(err)
			}
			return
		}
		lines := strings.FieldsFunc(string(got), func(r rune) bool { return r == '\n' || r == '\r' || r == '\v' || r == '\f' })
		if len(lines) != 3 {
			t.Fatalf("%q", got)
		}
		for i, word := range []string{"search", "nameserver", "options"} {
			if words := strings.Fields(lines[i]); len(words) != 2 || words[0] != word {
				t.Errorf("line %d is %q", i, lines[i])
			}
		}
	})
}
