// Package config loads, checks and prints the configuration of berthd.
//
// The configuration is plain data: Load reads it from files in YAML and from
// overrides (the command line), Default gives it without any, Validate looks at
// nothing but the values, Print writes it down. Nothing in here opens a
// directory or socket that a key names.
//
// To add a key:
//
//  1. add a field with its yaml tag to the struct it belongs to;
//  2. add the key with its default and a comment to default.yaml, which is what
//     `berthd config default` prints;
//  3. if not every value makes sense, check it in validate.go;
//  4. if it can change while berthd runs, tag it `reload:"live"`, write (live)
//     at the end of its comment, and apply it in cmd/berthd;
//  5. run go test ./config -update, which brings docs/configuration.md up to
//     date.
//
// Tests fail where a step was forgotten.
package config

import "time"

// The identity of the format, in every file.
const (
	APIVersion = "berth.dev/v1alpha1"
	Kind       = "BerthConfiguration"
)

// Config is the whole configuration. default.yaml tells what each key means and
// holds its default.
type Config struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`

	Root    string `yaml:"root"`
	State   string `yaml:"state"`
	Address string `yaml:"address"`

	Log     Log     `yaml:"log"`
	Metrics Metrics `yaml:"metrics"`
	Tracing Tracing `yaml:"tracing"`
	Images  Images  `yaml:"images"`
	Network Network `yaml:"network"`
	Runtime Runtime `yaml:"runtime"`
	// Runtimes are the handlers by name.
	Runtimes  map[string]Handler `yaml:"runtimes" reload:"live"`
	NRI       NRI                `yaml:"nri"`
	Streaming Streaming          `yaml:"streaming"`
	Deadlines Deadlines          `yaml:"deadlines"`
}

// Log is about berthd's own log, not the containers'.
type Log struct {
	Level  string `yaml:"level" reload:"live"`
	Format string `yaml:"format"`
}

// Values of Log.Level and Log.Format.
const (
	LevelDebug = "debug"
	LevelInfo  = "info"
	LevelWarn  = "warn"
	LevelError = "error"

	FormatText = "text"
	FormatJSON = "json"
)

// Metrics is the HTTP endpoint for monitoring.
type Metrics struct {
	Address string `yaml:"address"`
	Pprof   bool   `yaml:"pprof"`
}

// Tracing is where OpenTelemetry traces go.
type Tracing struct {
	Endpoint               string `yaml:"endpoint"`
	SamplingRatePerMillion int    `yaml:"samplingRatePerMillion"`
	Insecure               bool   `yaml:"insecure"`
	CAFile                 string `yaml:"caFile"`
	CertFile               string `yaml:"certFile"`
	KeyFile                string `yaml:"keyFile"`
}

// Values of Images.Inflate.
const (
	InflateAuto = "auto"
	InflateGo   = "go"
)

// Images is about pulling and unpacking.
type Images struct {
	Dir             string        `yaml:"dir"`
	CertsDirs       []string      `yaml:"certsDirs"`
	ParallelLayers  int           `yaml:"parallelLayers"`
	BlobConnections int           `yaml:"blobConnections"`
	StallTimeout    time.Duration `yaml:"stallTimeout"`
	MinProgress     int64         `yaml:"minProgress"`
	DockerConfig    string        `yaml:"dockerConfig"`
	Inflate         string        `yaml:"inflate"`
	KeepBlobs       bool          `yaml:"keepBlobs"`
	Pinned          []string      `yaml:"pinned"`
	ImportDirs      []string      `yaml:"importDirs"`
	Platform        string        `yaml:"platform"`
	PolicyFile      string        `yaml:"policyFile"`
	// DecryptionKeysDir has the keys of encrypted images.
	DecryptionKeysDir string `yaml:"decryptionKeysDir"`
	// Serve is the registry for other nodes.
	Serve Serve `yaml:"serve"`
}

// Network is about CNI.
type Network struct {
	ConfDirs []string      `yaml:"confDirs"`
	BinDirs  []string      `yaml:"binDirs"`
	Template string        `yaml:"template"`
	Timeout  time.Duration `yaml:"timeout"`
}

// Runtime is about containers.
type Runtime struct {
	WritableDir         string            `yaml:"writableDir"`
	WritableLimit       int64             `yaml:"writableLimit"`
	ProjectIDs          ProjectIDs        `yaml:"projectIDs"`
	DefaultHandler      string            `yaml:"defaultHandler" reload:"live"`
	CgroupDriver        string            `yaml:"cgroupDriver"`
	MonitorBinary       string            `yaml:"monitorBinary"`
	MonitorCgroup       string            `yaml:"monitorCgroup"`
	Capabilities        []string          `yaml:"capabilities"`
	Env                 map[string]string `yaml:"env"`
	Rlimits             map[string]Rlimit `yaml:"rlimits"`
	PidsLimit           int64             `yaml:"pidsLimit"`
	UnsetSeccompProfile string            `yaml:"unsetSeccompProfile"`
	CdiSpecDirs         []string          `yaml:"cdiSpecDirs"`
	ApparmorProfile     string            `yaml:"apparmorProfile"`
	SelinuxLabels       bool              `yaml:"selinuxLabels"`
	RdtConfigFile       string            `yaml:"rdtConfigFile"`
	BlockioConfigFile   string            `yaml:"blockioConfigFile"`
}

// ProjectIDs are the IDs of project quota that containers get, Count of them from First on.
type ProjectIDs struct {
	First int64 `yaml:"first"`
	Count int64 `yaml:"count"`
}

// Values of Runtime.CgroupDriver and Runtime.UnsetSeccompProfile.
const (
	CgroupDriverAuto     = "auto"
	CgroupDriverCgroupfs = "cgroupfs"
	CgroupDriverSystemd  = "systemd"

	SeccompUnconfined     = "Unconfined"
	SeccompRuntimeDefault = "RuntimeDefault"
)

// BuiltinHandler is the name of Berth's own runtime.
const BuiltinHandler = "berth"

// Handler is one way to run containers.
type Handler struct {
	Path                         string         `yaml:"path"`
	Args                         []string       `yaml:"args"`
	Annotations                  []string       `yaml:"annotations"`
	SeccompProfile               string         `yaml:"seccompProfile"`
	PrivilegedWithoutHostDevices bool           `yaml:"privilegedWithoutHostDevices"`
	Cgroup                       HandlerCgroup  `yaml:"cgroup"`
	Rootfs                       HandlerRootfs  `yaml:"rootfs"`
	Network                      HandlerNetwork `yaml:"network"`
}

// HandlerCgroup is about the cgroups of a handler's containers.
type HandlerCgroup struct {
	Writable  bool  `yaml:"writable"`
	MinMemory int64 `yaml:"minMemory"`
}

// HandlerRootfs is about the root file systems of a handler's containers.
type HandlerRootfs struct {
	Readonly bool `yaml:"readonly"`
}

// HandlerNetwork is about the network of a handler's pods.
type HandlerNetwork struct {
	ConfDirs []string `yaml:"confDirs"`
}

// Rlimit is a resource limit; Unlimited stands for none.
type Rlimit struct {
	Soft int64 `yaml:"soft"`
	Hard int64 `yaml:"hard"`
}

// Unlimited is a Rlimit's value for no limit.
const Unlimited = -1

// NRI is the Node Resource Interface: plugins that adjust containers.
type NRI struct {
	Enabled             bool          `yaml:"enabled"`
	Socket              string        `yaml:"socket"`
	DisableConnections  bool          `yaml:"disableConnections"`
	PluginDir           string        `yaml:"pluginDir"`
	PluginConfigDir     string        `yaml:"pluginConfigDir"`
	RegistrationTimeout time.Duration `yaml:"registrationTimeout"`
	RequestTimeout      time.Duration `yaml:"requestTimeout"`
	DefaultValidator    NRIValidator  `yaml:"defaultValidator"`
}

// NRIValidator is what the built-in validator refuses.
type NRIValidator struct {
	Enabled                          bool     `yaml:"enabled"`
	RejectHooks                      bool     `yaml:"rejectHooks"`
	RejectRuntimeDefaultSeccomp      bool     `yaml:"rejectRuntimeDefaultSeccomp"`
	RejectUnconfinedSeccomp          bool     `yaml:"rejectUnconfinedSeccomp"`
	RejectCustomSeccomp              bool     `yaml:"rejectCustomSeccomp"`
	RejectNamespaces                 bool     `yaml:"rejectNamespaces"`
	RejectSysctls                    bool     `yaml:"rejectSysctls"`
	RequiredPlugins                  []string `yaml:"requiredPlugins"`
	TolerateMissingPluginsAnnotation string   `yaml:"tolerateMissingPluginsAnnotation"`
}

// Streaming is the server for exec, attach and port-forward.
type Streaming struct {
	Address         string        `yaml:"address"`
	Port            int           `yaml:"port"`
	IdleTimeout     time.Duration `yaml:"idleTimeout"`
	CreationTimeout time.Duration `yaml:"creationTimeout"`
}

// Deadlines are limits for what the daemon waits for.
type Deadlines struct {
	Shutdown time.Duration `yaml:"shutdown"`
}
