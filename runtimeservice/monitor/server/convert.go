package server

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"sync"
	"weak"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
	"github.com/berth-cri/berth/runtimeservice/monitor/seccompcache"
)

// checkStart refuses what libcontainer would take and what would end badly: a
// container without a cgroup of its own shares that of the monitor, and removing
// it would kill what else is in there.
func checkStart(req *protocol.Start) error {
	spec := req.Spec
	switch {
	case spec == nil || spec.Process == nil || spec.Root == nil || spec.Linux == nil:
		return fmt.Errorf("spec lacks process, root or linux: %w", errdefs.ErrInvalidArgument)
	case len(spec.Process.Args) == 0:
		return fmt.Errorf("spec has no command: %w", errdefs.ErrInvalidArgument)
	case !path.IsAbs(spec.Root.Path):
		return fmt.Errorf("root path %q is not absolute: %w", spec.Root.Path, errdefs.ErrInvalidArgument)
	}
	return checkCgroup(spec.Linux.CgroupsPath, req.SystemdCgroup)
}

func checkCgroup(cgroup string, systemd bool) error {
	if cgroup == "" || !systemd && (!path.IsAbs(cgroup) || path.Clean(cgroup) == "/") {
		return fmt.Errorf("cgroup path %q is not that of a container: %w", cgroup, errdefs.ErrInvalidArgument)
	}
	return nil
}

// convertSpec makes libcontainer's configuration of an OCI spec.
func (s *Server) convertSpec(req *protocol.Start) (*configs.Config, error) {
	if err := checkStart(req); err != nil {
		return nil, err
	}
	spec := *withoutMappings(req.Spec)
	spec.Annotations = s.criuAnnotations(req)
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:       req.ID,
		UseSystemdCgroup: req.SystemdCgroup,
		Spec:             &spec,
	})
	if err != nil {
		return nil, fmt.Errorf("convert spec: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if err := forUserNamespace(config); err != nil {
		return nil, err
	}
	if config.OomScoreAdj == nil {
		config.OomScoreAdj = &s.oomScore
	}
	if config.Seccomp == nil {
		return config, nil
	}
	key, err := s.compileProfile(config.Seccomp)
	if err != nil {
		return nil, err
	}
	config.Seccomp = s.profiles.share(key, config.Seccomp)
	return config, nil
}

// compileProfile puts a seccomp profile where inits find it compiled.
func (s *Server) compileProfile(profile *configs.Seccomp) (seccompcache.Key, error) {
	encoded, err := json.Marshal(profile)
	if err != nil {
		return seccompcache.Key{}, fmt.Errorf("encode seccomp profile: %w", err)
	}
	key := seccompcache.Key(sha256.Sum256(encoded))
	ticket := s.orphans.begin()
	defer s.orphans.finish(ticket)
	if err := s.filters.Add(key, encoded); err != nil {
		return key, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return key, nil
}

// profiles lets containers with equal seccomp profiles share one in memory; the
// default profile takes 60 KiB, more than all else about a container.
type profiles struct {
	mu    sync.Mutex
	known map[seccompcache.Key]weak.Pointer[configs.Seccomp]
}

func (p *profiles) share(key seccompcache.Key, profile *configs.Seccomp) *configs.Seccomp {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.known[key].Value(); known != nil {
		return known
	}
	for k, w := range p.known {
		if w.Value() == nil {
			delete(p.known, k)
		}
	}
	if p.known == nil {
		p.known = map[seccompcache.Key]weak.Pointer[configs.Seccomp]{}
	}
	p.known[key] = weak.Make(profile)
	return profile
}

// convertProcess makes libcontainer's process of an OCI one.
func convertProcess(p *specs.Process) (*libcontainer.Process, error) {
	if p == nil || len(p.Args) == 0 {
		return nil, fmt.Errorf("process has no command: %w", errdefs.ErrInvalidArgument)
	}
	process := &libcontainer.Process{
		Args:            p.Args,
		Env:             p.Env,
		UID:             int(p.User.UID),
		GID:             int(p.User.GID),
		Cwd:             p.Cwd,
		Label:           p.SelinuxLabel,
		NoNewPrivileges: &p.NoNewPrivileges,
		AppArmorProfile: p.ApparmorProfile,
		Scheduler:       p.Scheduler,
		IOPriority:      p.IOPriority,
	}
	if p.ConsoleSize != nil {
		process.ConsoleWidth = uint16(p.ConsoleSize.Width)
		process.ConsoleHeight = uint16(p.ConsoleSize.Height)
	}
	if c := p.Capabilities; c != nil {
		process.Capabilities = &configs.Capabilities{
			Bounding: c.Bounding, Effective: c.Effective, Inheritable: c.Inheritable,
			Permitted: c.Permitted, Ambient: c.Ambient,
		}
	}
	for _, gid := range p.User.AdditionalGids {
		process.AdditionalGroups = append(process.AdditionalGroups, int(gid))
	}
	for _, r := range p.Rlimits {
		kind := slices.Index(rlimitNames, r.Type)
		if kind < 0 {
			return nil, fmt.Errorf("resource limit %q is not known: %w", r.Type, errdefs.ErrInvalidArgument)
		}
		process.Rlimits = append(process.Rlimits, configs.Rlimit{Type: kind, Soft: r.Soft, Hard: r.Hard})
	}
	affinity, err := configs.ConvertCPUAffinity(p.ExecCPUAffinity)
	if err != nil {
		return nil, fmt.Errorf("convert CPU affinity: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	process.CPUAffinity = affinity
	return process, nil
}

// rlimitNames are the limits in the order of the kernel's numbers.
var rlimitNames = []string{
	unix.RLIMIT_CPU:        "RLIMIT_CPU",
	unix.RLIMIT_FSIZE:      "RLIMIT_FSIZE",
	unix.RLIMIT_DATA:       "RLIMIT_DATA",
	unix.RLIMIT_STACK:      "RLIMIT_STACK",
	unix.RLIMIT_CORE:       "RLIMIT_CORE",
	unix.RLIMIT_RSS:        "RLIMIT_RSS",
	unix.RLIMIT_NPROC:      "RLIMIT_NPROC",
	unix.RLIMIT_NOFILE:     "RLIMIT_NOFILE",
	unix.RLIMIT_MEMLOCK:    "RLIMIT_MEMLOCK",
	unix.RLIMIT_AS:         "RLIMIT_AS",
	unix.RLIMIT_LOCKS:      "RLIMIT_LOCKS",
	unix.RLIMIT_SIGPENDING: "RLIMIT_SIGPENDING",
	unix.RLIMIT_MSGQUEUE:   "RLIMIT_MSGQUEUE",
	unix.RLIMIT_NICE:       "RLIMIT_NICE",
	unix.RLIMIT_RTPRIO:     "RLIMIT_RTPRIO",
	unix.RLIMIT_RTTIME:     "RLIMIT_RTTIME",
}
