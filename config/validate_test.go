package config

import (
	"errors"
	"strings"
	"testing"
)

func valid() Config {
	c := Default()
	complete(&c)
	return c
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		key    string
		change func(*Config)
	}{
		{"apiVersion", func(c *Config) { c.APIVersion = "" }},
		{"kind", func(c *Config) { c.Kind = "Pod" }},
		{"root", func(c *Config) { c.Root = "" }},
		{"root", func(c *Config) { c.Root = "/" }},
		{"root", func(c *Config) { c.Root = "/a/../b" }},
		{"root", func(c *Config) { c.Root = "/a/" }},
		{"root", func(c *Config) { c.Root = "/a\x00" }},
		{"state", func(c *Config) { c.State = "run" }},
		{"state", func(c *Config) { c.State = c.Root }},
		{"state", func(c *Config) { c.State = c.Root + "/run" }},
		{"state", func(c *Config) { c.Root = c.State + "/lib" }},
		{"state", func(c *Config) { c.State = "/" + strings.Repeat("x", maxStatePath) }},
		{"address", func(c *Config) { c.Address = "localhost:80" }},
		{"address", func(c *Config) { c.Address = "/" + strings.Repeat("x", maxSocketPath) }},
		{"log.level", func(c *Config) { c.Log.Level = "INFO" }},
		{"log.format", func(c *Config) { c.Log.Format = "" }},
		{"metrics.address", func(c *Config) { c.Metrics.Address = "9100" }},
		{"metrics.address", func(c *Config) { c.Metrics.Address = ":65536" }},
		{"metrics.address", func(c *Config) { c.Metrics.Address = ":http" }},
		{"metrics.address", func(c *Config) { c.Metrics.Address = ":0080" }},
		{"images.importDirs[0]", func(c *Config) { c.Images.ImportDirs = []string{"images.d"} }},
		{"images.certsDirs[0]", func(c *Config) { c.Images.CertsDirs = []string{"certs.d"} }},
		{"images.parallelLayers", func(c *Config) { c.Images.ParallelLayers = 0 }},
		{"images.stallTimeout", func(c *Config) { c.Images.StallTimeout = 0 }},
		{"images.pinned[0]", func(c *Config) { c.Images.Pinned = []string{"a["} }},
		{"images.pinned[1]", func(c *Config) { c.Images.Pinned = []string{"a", ""} }},
		{"images.platform", func(c *Config) { c.Images.Platform = "amd64" }},
		{"images.platform", func(c *Config) { c.Images.Platform = "windows/amd64" }},
		{"images.decryptionKeysDir", func(c *Config) { c.Images.DecryptionKeysDir = "keys" }},
		{"images.serve.address", func(c *Config) { c.Images.Serve.Address = "5000" }},
		{"images.serve.address", func(c *Config) { served(c); c.Images.KeepBlobs = false }},
		{"images.serve.repositories", func(c *Config) { served(c); c.Images.Serve.Repositories = nil }},
		{"images.serve.repositories[0]", func(c *Config) { c.Images.Serve.Repositories = []string{""} }},
		{"images.serve.tlsCert", func(c *Config) { served(c); c.Images.Serve.TLSCert, c.Images.Serve.TLSKey = "", "" }},
		{"images.serve.tlsKey", func(c *Config) { c.Images.Serve.TLSCert = "/cert" }},
		{"images.serve.clientCA", func(c *Config) { c.Images.Serve.ClientCA = "/ca" }},
		{"images.serve.tokensFile", func(c *Config) { served(c); c.Images.Serve.TokensFile = "" }},
		{"images.serve.tokensFile", func(c *Config) { c.Images.Serve.TokensFile = "tokens" }},
		{"images.serve.maxTransfers", func(c *Config) { c.Images.Serve.MaxTransfers = -1 }},
		{"images.serve.bandwidth", func(c *Config) { c.Images.Serve.Bandwidth = 1 }},
		{"network.confDirs", func(c *Config) { c.Network.ConfDirs = nil }},
		{"network.binDirs[0]", func(c *Config) { c.Network.BinDirs = []string{"~/bin"} }},
		{"network.timeout", func(c *Config) { c.Network.Timeout = 0 }},
		{"runtime.writableLimit", func(c *Config) { c.Runtime.WritableLimit = -1 }},
		{"runtime.writableLimit", func(c *Config) { c.Runtime.WritableLimit = 1000 }},
		{"runtime.writableLimit", func(c *Config) { c.Runtime.WritableLimit, c.Runtime.ProjectIDs.Count = 1<<30, 0 }},
		{"runtime.projectIDs.first", func(c *Config) { c.Runtime.ProjectIDs.First = 0 }},
		{"runtime.projectIDs.first", func(c *Config) { c.Runtime.ProjectIDs.First = 1<<32 - 1 }},
		{"runtime.projectIDs.first", func(c *Config) { c.Runtime.ProjectIDs.Count = 1 << 32 }},
		{"runtime.projectIDs.count", func(c *Config) { c.Runtime.ProjectIDs.Count = -1 }},
		{"runtime.cgroupDriver", func(c *Config) { c.Runtime.CgroupDriver = "v2" }},
		{"runtime.monitorBinary", func(c *Config) { c.Runtime.MonitorBinary = "berth-monitor" }},
		{"runtime.monitorCgroup", func(c *Config) { c.Runtime.MonitorCgroup = "/" }},
		{"runtime.monitorCgroup", func(c *Config) { c.Runtime.MonitorCgroup = "/../x" }},
		{"runtime.capabilities[1]", func(c *Config) { c.Runtime.Capabilities = []string{"CAP_KILL", "KILL"} }},
		{"runtime.env.A=B", func(c *Config) { c.Runtime.Env = map[string]string{"A=B": ""} }},
		{"runtime.env.", func(c *Config) { c.Runtime.Env = map[string]string{"": "x"} }},
		{"runtime.env.A", func(c *Config) { c.Runtime.Env = map[string]string{"A": "\x00"} }},
		{"runtime.defaultHandler", func(c *Config) { c.Runtime.DefaultHandler = "runc" }},
		{"runtime.defaultHandler", func(c *Config) { c.Runtime.DefaultHandler = "" }},
		{"runtimes.Kata", handlers("Kata", Handler{Path: "/bin/kata"})},
		{"runtimes.a/b", handlers("a/b", Handler{Path: "/bin/kata"})},
		{"runtimes.berth.path", handlers("berth", Handler{Path: "/bin/kata"})},
		{"runtimes.runc.path", handlers("runc", Handler{Path: "runc"})},
		{"runtimes.runc.args", handlers("runc", Handler{Args: []string{"--debug"}})},
		{"runtimes.runc.annotations[0]", handlers("runc", Handler{Annotations: []string{"a*b"}})},
		{"runtimes.runc.seccompProfile", handlers("runc", Handler{SeccompProfile: "p.json"})},
		{"runtimes.runc.cgroup.minMemory", handlers("runc", Handler{Cgroup: HandlerCgroup{MinMemory: -1}})},
		{"runtimes.runc.network.confDirs[0]", handlers("runc", Handler{Network: HandlerNetwork{[]string{"net.d"}}})},
		{"runtime.rlimits.NOFILE", func(c *Config) { c.Runtime.Rlimits = map[string]Rlimit{"NOFILE": {1, 1}} }},
		{"runtime.rlimits.RLIMIT_CPU", func(c *Config) { c.Runtime.Rlimits = map[string]Rlimit{"RLIMIT_CPU": {2, 1}} }},
		{"runtime.rlimits.RLIMIT_CPU", func(c *Config) { c.Runtime.Rlimits = map[string]Rlimit{"RLIMIT_CPU": {-1, 1}} }},
		{"runtime.rlimits.RLIMIT_CPU", func(c *Config) { c.Runtime.Rlimits = map[string]Rlimit{"RLIMIT_CPU": {-2, -2}} }},
		{"runtime.pidsLimit", func(c *Config) { c.Runtime.PidsLimit = -1 }},
		{"runtime.unsetSeccompProfile", func(c *Config) { c.Runtime.UnsetSeccompProfile = "unconfined" }},
		{"runtime.apparmorProfile", func(c *Config) { c.Runtime.ApparmorProfile = "two\nlines" }},
		{"runtime.rdtConfigFile", func(c *Config) { c.Runtime.RdtConfigFile = "rdt.yaml" }},
		{"runtime.blockioConfigFile", func(c *Config) { c.Runtime.BlockioConfigFile = "blockio.yaml" }},
		{"runtime.cdiSpecDirs[1]", func(c *Config) { c.Runtime.CdiSpecDirs = []string{"/etc/cdi", "cdi"} }},
		{"streaming.address", func(c *Config) { c.Streaming.Address = "localhost" }},
		{"streaming.address", func(c *Config) { c.Streaming.Address = "0.0.0.0" }},
		{"streaming.port", func(c *Config) { c.Streaming.Port = 65536 }},
		{"streaming.idleTimeout", func(c *Config) { c.Streaming.IdleTimeout = 0 }},
		{"streaming.creationTimeout", func(c *Config) { c.Streaming.CreationTimeout = -1 }},
		{"tracing.endpoint", func(c *Config) { c.Tracing.Endpoint = "collector" }},
		{"tracing.samplingRatePerMillion", func(c *Config) { c.Tracing.SamplingRatePerMillion = -1 }},
		{"tracing.samplingRatePerMillion", func(c *Config) { c.Tracing.SamplingRatePerMillion = 1_000_001 }},
		{"tracing.caFile", func(c *Config) { c.Tracing.CAFile = "ca.pem" }},
		{"tracing.caFile", func(c *Config) { c.Tracing.CAFile, c.Tracing.Insecure = "/ca.pem", true }},
		{"tracing.keyFile", func(c *Config) { c.Tracing.CertFile = "/cert.pem" }},
		{"tracing.certFile", func(c *Config) { c.Tracing.KeyFile = "/key.pem" }},
		{"deadlines.shutdown", func(c *Config) { c.Deadlines.Shutdown = 0 }},
	} {
		c := valid()
		test.change(&c)
		var found *KeyError
		if err := Validate(c); !errors.As(err, &found) || found.Key != test.key {
			t.Errorf("error is %v, want one about %s", err, test.key)
		}
	}
}

func TestValidateTakes(t *testing.T) {
	for _, change := range []func(*Config){
		func(c *Config) {},
		func(c *Config) { c.Root = "/run/berth-root" }, // begins as the state directory does
		func(c *Config) { c.State = "/" + strings.Repeat("x", maxStatePath-1) },
		func(c *Config) { c.Metrics.Address = ":0" },
		func(c *Config) { c.Metrics.Address = "[::1]:9100" },
		func(c *Config) { c.Images.CertsDirs = []string{} },
		func(c *Config) { c.Images.Pinned = []string{"registry.example/*/pause:*", "a"} },
		func(c *Config) { c.Images.Platform = "linux/arm64/v8" },
		func(c *Config) { c.Runtime.Capabilities = []string{} },
		func(c *Config) { c.Runtime.Capabilities = []string{"CAP_CHECKPOINT_RESTORE"} },
		func(c *Config) { c.Runtime.MonitorCgroup = "" },
		func(c *Config) { c.Runtime.Env = map[string]string{"A": "", "B.C": "x=y"} },
		func(c *Config) {
			c.Runtime.Rlimits = map[string]Rlimit{"RLIMIT_NOFILE": {1, 1}, "RLIMIT_CPU": {Unlimited, Unlimited}, "RLIMIT_AS": {5, Unlimited}}
		},
		func(c *Config) { c.Streaming.Address = "::1" },
		func(c *Config) {
			c.Runtime.DefaultHandler = "runc-1"
			c.Runtimes = map[string]Handler{
				"runc-1": {Path: "/usr/bin/runc", Args: []string{"--debug"}, Annotations: []string{"*", "x/y", "z/*"}},
				"berth":  {SeccompProfile: "/etc/profile.json"}, "small": {Rootfs: HandlerRootfs{Readonly: true}},
			}
		},
	} {
		c := valid()
		change(&c)
		if err := Validate(c); err != nil {
			t.Errorf("error is %v", err)
		}
	}
}

func TestValidateNamesEveryKey(t *testing.T) {
	c := valid()
	c.Log.Level, c.Streaming.Port, c.Network.Timeout = "", -1, 0
	err := Validate(c)
	if err == nil || len(strings.Split(err.Error(), "\n")) != 3 {
		t.Errorf("error is %v, want three lines", err)
	}
}

func handlers(name string, h Handler) func(*Config) {
	return func(c *Config) { c.Runtimes = map[string]Handler{name: h} }
}

// served makes the node's images be served in a way that is right.
func served(c *Config) {
	c.Images.Serve = Serve{
		Address: "10.0.0.1:5000", Repositories: []string{"docker.io/**"}, TLSCert: "/cert", TLSKey: "/key", TokensFile: "/tokens",
	}
}

func TestServedImages(t *testing.T) {
	c := valid()
	served(&c)
	if err := Validate(c); err != nil {
		t.Error(err)
	}
	c.Images.Serve = Serve{Address: "[::1]:0", Repositories: []string{"**"}}
	if err := Validate(c); err != nil {
		t.Errorf("on loopback, without protection: %v", err)
	}
}
