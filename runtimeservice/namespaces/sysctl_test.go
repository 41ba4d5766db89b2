package namespaces

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestSysctlPath(t *testing.T) {
	for key, want := range map[string]string{
		"net.core.somaxconn":             "net/core/somaxconn",
		"net/core/somaxconn":             "net/core/somaxconn",
		"net.ipv4.conf.eth0/7.rp_filter": "net/ipv4/conf/eth0.7/rp_filter",
		"net/ipv4/conf/eth0.7/rp_filter": "net/ipv4/conf/eth0.7/rp_filter",
		"kernel.shm_rmid_forced":         "kernel/shm_rmid_forced",
	} {
		if got, err := sysctlPath(key); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", key, got, err, want)
		}
	}
}

func TestSysctlsThatAPodMayNotSet(t *testing.T) {
	for name, test := range map[string]struct {
		key, value   string
		network, ipc bool
		reason       string
	}{
		"network of the node":    {"net.core.somaxconn", "1", false, true, "network namespace"},
		"IPC of the node":        {"kernel.shmmax", "1", true, false, "IPC namespace"},
		"semaphores of the node": {"kernel.sem", "1", true, false, "IPC namespace"},
		"queues of the node":     {"fs.mqueue.msg_max", "1", true, false, "IPC namespace"},
		"host name":              {"kernel.hostname", "x", true, true, "host name"},
		"domain name":            {"kernel/domainname", "x", true, true, "host name"},
		"of the node":            {"kernel.core_pattern", "|/bin/sh", true, true, "would change the node"},
		"of virtual memory":      {"vm.overcommit_memory", "1", true, true, "would change the node"},
		"prefix of a directory":  {"kernel.shm/x.y", "1", true, true, "would change the node"},
		"prefix alone":           {"network.x", "1", true, true, "would change the node"},
		"no group":               {"net", "1", true, true, "no group"},
		"empty":                  {"", "1", true, true, "no group"},
		"climbs by dots":         {"net/../kernel/core_pattern", "1", true, true, "dots"},
		"climbs by slashes":      {"net.//.kernel.core_pattern", "1", true, true, "dots"},
		"empty part":             {"net..core", "1", true, true, "empty"},
		"absolute":               {"/net/core/somaxconn", "1", true, true, "empty"},
		"plus in the key":        {"kernel.shm_rmid_forced+kernel.core_pattern", "1", true, true, "cannot be in a key"},
		"newline in the key":     {"net.core.somaxconn\n", "1", true, true, "cannot be in a key"},
		"NUL in the key":         {"net.core.somaxconn\x00", "1", true, true, "cannot be in a key"},
		"assignment in the key":  {"kernel.shmmax=1", "1", true, true, "cannot be in a key"},
		"plus in the value":      {"kernel.shm_rmid_forced", "1+kernel.core_pattern=x", true, true, "cannot be in a value"},
		"newline in the value":   {"kernel.shm_rmid_forced", "1\n2", true, true, "cannot be in a value"},
		"NUL in the value":       {"kernel.shm_rmid_forced", "1\x00", true, true, "cannot be in a value"},
		"no value":               {"kernel.shm_rmid_forced", "", true, true, "no value"},
		"endless value":          {"kernel.shm_rmid_forced", strings.Repeat("1", 4096), true, true, "longer"},
	} {
		t.Run(name, func(t *testing.T) {
			err := ValidateSysctls(map[string]string{test.key: test.value}, test.network, test.ipc)
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("got %v", err)
			}
			if !strings.Contains(err.Error(), test.reason) {
				t.Errorf("%q does not say %q", err, test.reason)
			}
		})
	}
}

func TestSysctlSetTwice(t *testing.T) {
	err := ValidateSysctls(map[string]string{"net.ipv4.ip_forward": "0", "net/ipv4/ip_forward": "1"}, true, true)
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "twice") {
		t.Errorf("got %v", err)
	}
}

func TestErrorNamesTheFirstKey(t *testing.T) {
	sysctls := map[string]string{"vm.swappiness": "1", "kernel.panic": "1", "net.core.somaxconn": "1"}
	for range 20 {
		err := ValidateSysctls(sysctls, true, true)
		if err == nil || !strings.Contains(err.Error(), `"kernel.panic"`) {
			t.Fatalf("got %v", err)
		}
	}
}

func FuzzSysctlPath(f *testing.F) {
	f.Add("net.core.somaxconn")
	f.Add("net/../kernel/core_pattern")
	f.Add("net.ipv4.conf.a/b.c")
	f.Fuzz(func(t *testing.T, key string) {
		path, err := sysctlPath(key)
		if err != nil {
			return
		}
		if strings.HasPrefix(path, "/") || strings.Contains(path, "..") || strings.Contains(path, "//") || strings.ContainsAny(path, "\x00\n+") {
			t.Errorf("%q became %q", key, path)
		}
	})
}
