package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/capability"
)

// Limits of the kernel for paths of Unix sockets: sockaddr_un has room for 107
// bytes and a NUL; maxStatePath leaves some of them to the names below it.
const (
	maxSocketPath = 107
	maxStatePath  = 64
)

// KeyError is a value that a key cannot have.
type KeyError struct {
	// Key is the key's path, with an index or a map's key where it applies.
	Key string
	// Problem says what is wrong with the value, which it contains.
	Problem string
}

func (e *KeyError) Error() string { return e.Key + ": " + e.Problem }

// Validate looks at the values only: whether a directory is there or an address
// is free is found out by whoever uses it. The error joins one *KeyError for
// each key that is wrong.
func Validate(c Config) error {
	var errs []error
	for _, p := range problems(&c) {
		errs = append(errs, p)
	}
	return errors.Join(errs...)
}

// problems are in the order of the keys.
func problems(c *Config) []*KeyError {
	k := &checker{}
	k.directories(c)
	k.oneOf("log.level", c.Log.Level, LevelDebug, LevelInfo, LevelWarn, LevelError)
	k.oneOf("log.format", c.Log.Format, FormatText, FormatJSON)
	k.hostPort("metrics.address", c.Metrics.Address)
	k.tracing(&c.Tracing)
	k.images(&c.Images)
	k.network(&c.Network)
	k.runtime(&c.Runtime)
	k.nri(&c.NRI)
	k.runtimes(c)
	k.streaming(&c.Streaming)
	k.positive("deadlines.shutdown", c.Deadlines.Shutdown)
	return k.found
}

// checker collects what is wrong.
type checker struct{ found []*KeyError }

func (k *checker) fail(key, format string, args ...any) {
	k.found = append(k.found, &KeyError{Key: key, Problem: fmt.Sprintf(format, args...)})
}

func (k *checker) directories(c *Config) {
	k.identity("apiVersion", c.APIVersion, APIVersion)
	k.identity("kind", c.Kind, Kind)
	rootOK, stateOK := k.absPath("root", c.Root), k.absPath("state", c.State)
	if c.Root == "/" || c.State == "/" {
		k.fail("root", "neither root nor state can be the root of the file system")
	} else if rootOK && stateOK && (within(c.Root, c.State) || within(c.State, c.Root)) {
		k.fail("state", "%q and root %q have to lie beside each other: one outlives a reboot, the other does not", c.State, c.Root)
	}
	k.storage(c, "images.dir", c.Images.Dir)
	k.storage(c, "runtime.writableDir", c.Runtime.WritableDir)
	if len(c.State) > maxStatePath {
		k.fail("state", "%q is longer than %d bytes; sockets are made below it", c.State, maxStatePath)
	}
	if k.absPath("address", c.Address) && len(c.Address) > maxSocketPath {
		k.fail("address", "%q is longer than the %d bytes that the kernel allows for a socket", c.Address, maxSocketPath)
	}
}

// storage checks a directory that takes a part of root's content.
func (k *checker) storage(c *Config, key, dir string) {
	if dir == "" || dir == c.Root || !k.absPath(key, dir) {
		return
	}
	for _, other := range []string{c.Root, c.State, c.Images.Dir, c.Runtime.WritableDir} {
		if other != "" && other != dir && (within(dir, other) || within(other, dir)) {
			k.fail(key, "%q and %q have to lie beside each other", dir, other)
			return
		}
	}
}

func (k *checker) identity(key, value, want string) {
	if value != want {
		k.fail(key, "%q is not known; it has to be %s", value, want)
	}
}

func (k *checker) images(c *Images) {
	k.paths("images.certsDirs", c.CertsDirs)
	k.paths("images.importDirs", c.ImportDirs)
	k.between("images.parallelLayers", c.ParallelLayers, 1, 100)
	k.between("images.blobConnections", c.BlobConnections, 1, 16)
	k.atLeast("images.stallTimeout", c.StallTimeout, time.Second)
	if c.MinProgress < 1 {
		k.fail("images.minProgress", "%d is less than one byte", c.MinProgress)
	}
	k.optionalPath("images.dockerConfig", c.DockerConfig)
	k.optionalPath("images.decryptionKeysDir", c.DecryptionKeysDir)
	k.serve(c)
	k.oneOf("images.inflate", c.Inflate, InflateAuto, InflateGo)
	for i, pattern := range c.Pinned {
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			k.fail(fmt.Sprintf("images.pinned[%d]", i), "%q is not a name or pattern", pattern)
		}
	}
	if c.Platform != "" && !platformPattern.MatchString(c.Platform) {
		k.fail("images.platform", "%q is not linux/architecture or linux/architecture/variant", c.Platform)
	}
}

var platformPattern = regexp.MustCompile(`^linux/[a-z0-9]+(/[a-z0-9.]+)?$`)

func (k *checker) network(c *Network) {
	k.needed("network.confDirs", c.ConfDirs)
	k.needed("network.binDirs", c.BinDirs)
	k.optionalPath("network.template", c.Template)
	k.atLeast("network.timeout", c.Timeout, time.Second)
}

func (k *checker) runtime(c *Runtime) {
	k.oneOf("runtime.cgroupDriver", c.CgroupDriver, CgroupDriverAuto, CgroupDriverCgroupfs, CgroupDriverSystemd)
	k.writable(c)
	k.optionalPath("runtime.monitorBinary", c.MonitorBinary)
	if c.MonitorCgroup == "/" {
		k.fail("runtime.monitorCgroup", "cannot be the root cgroup")
	} else {
		k.optionalPath("runtime.monitorCgroup", c.MonitorCgroup)
	}
	known := capabilityNames()
	for i, name := range c.Capabilities {
		if !slices.Contains(known, name) {
			k.fail(fmt.Sprintf("runtime.capabilities[%d]", i), "%q is not a capability, as CAP_NET_RAW is one", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(c.Env[name], "\x00") {
			k.fail("runtime.env."+name, "a variable needs a name without '=', and neither part may have a NUL byte")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Rlimits)) {
		k.rlimit("runtime.rlimits."+name, name, c.Rlimits[name])
	}
	if c.PidsLimit < 0 {
		k.fail("runtime.pidsLimit", "%d is negative", c.PidsLimit)
	}
	k.oneOf("runtime.unsetSeccompProfile", c.UnsetSeccompProfile, SeccompUnconfined, SeccompRuntimeDefault)
	k.paths("runtime.cdiSpecDirs", c.CdiSpecDirs)
	if strings.ContainsAny(c.ApparmorProfile, "\x00\n()") {
		k.fail("runtime.apparmorProfile", "%q is not the name of a profile", c.ApparmorProfile)
	}
	for key, file := range map[string]string{"runtime.rdtConfigFile": c.RdtConfigFile, "runtime.blockioConfigFile": c.BlockioConfigFile} {
		if file != "" && !filepath.IsAbs(file) {
			k.fail(key, "%q is not an absolute path", file)
		}
	}
}

// minWritableLimit leaves room for the directories that a container starts with.
const minWritableLimit = 1 << 20

func (k *checker) writable(c *Runtime) {
	if c.WritableLimit != 0 && c.WritableLimit < minWritableLimit {
		k.fail("runtime.writableLimit", "%d is less than %d bytes, and not 0 for no limit", c.WritableLimit, minWritableLimit)
	}
	ids := c.ProjectIDs
	if ids.Count < 0 {
		k.fail("runtime.projectIDs.count", "%d is negative", ids.Count)
	}
	// 0 is what belongs to no project, and the highest number none at all.
	if ids.First < 1 || ids.First >= math.MaxUint32 || ids.Count > math.MaxUint32-ids.First {
		k.fail("runtime.projectIDs.first", "%d to %d are not IDs of projects, which are between 1 and %d", ids.First, ids.First+ids.Count-1, math.MaxUint32-1)
	}
	if c.WritableLimit > 0 && ids.Count == 0 {
		k.fail("runtime.writableLimit", "%d cannot be kept with runtime.projectIDs.count 0", c.WritableLimit)
	}
}

func capabilityNames() []string {
	var names []string
	for _, c := range capability.ListKnown() {
		names = append(names, "CAP_"+strings.ToUpper(c.String()))
	}
	return names
}

// rlimitNames are those of setrlimit(2), as the OCI runtime specification
// writes them.
var rlimitNames = []string{
	"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE",
	"RLIMIT_LOCKS", "RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE", "RLIMIT_NICE",
	"RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_RSS", "RLIMIT_RTPRIO",
	"RLIMIT_RTTIME", "RLIMIT_SIGPENDING", "RLIMIT_STACK",
}

func (k *checker) rlimit(key, name string, limit Rlimit) {
	if !slices.Contains(rlimitNames, name) {
		k.fail(key, "%q is not a resource limit, as RLIMIT_NOFILE is one", name)
	}
	if limit.Soft < Unlimited || limit.Hard < Unlimited {
		k.fail(key, "soft %d and hard %d have to be 0 or more, or -1 for unlimited", limit.Soft, limit.Hard)
		return
	}
	if limit.Hard != Unlimited && (limit.Soft == Unlimited || limit.Soft > limit.Hard) {
		k.fail(key, "soft %d is above hard %d", limit.Soft, limit.Hard)
	}
}

func (k *checker) nri(c *NRI) {
	k.optionalPath("nri.socket", c.Socket)
	if len(c.Socket) > maxSocketPath {
		k.fail("nri.socket", "%q is longer than the %d bytes that the kernel allows for a socket", c.Socket, maxSocketPath)
	}
	k.absPath("nri.pluginDir", c.PluginDir)
	k.absPath("nri.pluginConfigDir", c.PluginConfigDir)
	k.atLeast("nri.registrationTimeout", c.RegistrationTimeout, minNRITimeout)
	k.atLeast("nri.requestTimeout", c.RequestTimeout, minNRITimeout)
	for i, name := range c.DefaultValidator.RequiredPlugins {
		if name == "" {
			k.fail(fmt.Sprintf("nri.defaultValidator.requiredPlugins[%d]", i), "is empty; it has to be a plugin's name")
		}
	}
}

// minNRITimeout is the least time in which a program can be expected to answer.
const minNRITimeout = 100 * time.Millisecond

func (k *checker) streaming(c *Streaming) {
	if addr, err := netip.ParseAddr(c.Address); err != nil || !addr.IsLoopback() {
		k.fail("streaming.address", "%q is not a loopback IP address", c.Address)
	}
	k.between("streaming.port", c.Port, 0, 65535)
	k.positive("streaming.idleTimeout", c.IdleTimeout)
	k.positive("streaming.creationTimeout", c.CreationTimeout)
}

// absPath reports whether the value is an absolute path without "..", "//" or a
// slash at its end, so that two spellings of one path cannot be taken for two.
func (k *checker) absPath(key, value string) bool {
	switch {
	case value == "":
		k.fail(key, "is empty; it has to be an absolute path")
	case !filepath.IsAbs(value) || strings.Contains(value, "\x00"):
		k.fail(key, "%q is not an absolute path", value)
	case filepath.Clean(value) != value:
		k.fail(key, "%q has to be written as %q", value, filepath.Clean(value))
	default:
		return true
	}
	return false
}

func (k *checker) optionalPath(key, value string) {
	if value != "" {
		k.absPath(key, value)
	}
}

// needed are directories of which there has to be one.
func (k *checker) needed(key string, values []string) {
	if len(values) == 0 {
		k.fail(key, "is empty; it needs at least one directory")
	}
	k.paths(key, values)
}

func (k *checker) paths(key string, values []string) {
	for i, v := range values {
		k.absPath(fmt.Sprintf("%s[%d]", key, i), v)
	}
}

// within reports whether p is dir or below it; both are clean.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, dir+"/")
}

func (k *checker) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		k.fail(key, "%q has to be one of %s", value, strings.Join(allowed, ", "))
	}
}

func (k *checker) between(key string, value, low, high int) {
	if value < low || value > high {
		k.fail(key, "%d is not between %d and %d", value, low, high)
	}
}

func (k *checker) positive(key string, value time.Duration) {
	if value <= 0 {
		k.fail(key, "%s has to be more than 0s", value)
	}
}

func (k *checker) atLeast(key string, value, least time.Duration) {
	if value < least {
		k.fail(key, "%s is less than %s", value, least)
	}
}

func (k *checker) hostPort(key, value string) {
	if value == "" {
		return
	}
	_, port, err := net.SplitHostPort(value)
	if err != nil {
		k.fail(key, "%q is not host:port", value)
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		k.fail(key, "%q has no port between 0 and 65535", value)
	} else if strconv.FormatUint(n, 10) != port {
		k.fail(key, "port %q has to be written as %d", port, n)
	}
}
