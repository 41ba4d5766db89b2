package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/ociruntime"
	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// external runs a container by the program of another OCI runtime. The streams, the log
// and the exit are the monitor's as ever: the processes become its children when the
// program has ended.
type external struct {
	c       *container
	runtime *ociruntime.Runtime
	// spec is nil unless the container is being started.
	spec *specs.Spec
	// restore is what a container that is being started goes on from; pid is its process.
	restore *protocol.Restore
	pid     int
}

var _ backend = (*external)(nil)

// runtimesDir holds what the programs keep, one directory for each.
func (s *Server) runtimesDir() string { return filepath.Join(s.dir, "runtimes") }

// bundlesDir holds a bundle for each of their containers.
func (s *Server) bundlesDir() string { return filepath.Join(s.dir, "bundles") }

// consolesDir holds sockets for the masters of terminals. Their paths have to be short.
func (s *Server) consolesDir() string { return filepath.Join(s.dir, "consoles") }

func (s *Server) ociRuntime(r *protocol.Runtime) *ociruntime.Runtime {
	return &ociruntime.Runtime{
		Path: r.Path, Args: r.Args, SystemdCgroup: r.SystemdCgroup,
		Root: filepath.Join(s.runtimesDir(), r.Name), Bundles: s.bundlesDir(),
	}
}

func (c *container) newExternal(req *protocol.Start) (*external, error) {
	if err := checkStart(req); err != nil {
		return nil, err
	}
	if err := checkID(req.Runtime.Name); err != nil || !filepath.IsAbs(req.Runtime.Path) {
		return nil, fmt.Errorf("runtime %q at %q is malformed: %w", req.Runtime.Name, req.Runtime.Path, errdefs.ErrInvalidArgument)
	}
	// For what is malformed in it, which programs name in ways of their own.
	if _, err := convertProcess(req.Spec.Process); err != nil {
		return nil, err
	}
	spec := *req.Spec
	spec.Annotations = c.server.criuAnnotations(req)
	if spec.Process.OOMScoreAdj == nil {
		process := *spec.Process
		process.OOMScoreAdj = &c.server.oomScore
		spec.Process = &process
	}
	if req.Runtime.SystemdCgroup {
		spec.Annotations = withoutSubgroup(spec.Annotations)
	}
	return &external{c: c, runtime: c.server.ociRuntime(req.Runtime), spec: &spec, restore: req.Restore}, nil
}

// crunSubgroup names the cgroup that crun makes within a scope of systemd's for the
// container's processes.
const crunSubgroup = "run.oci.systemd.subgroup"

// withoutSubgroup keeps crun from making one: the cgroups of exec'ed processes are made
// beside the container's processes, in the scope, as they are for every other runtime.
func withoutSubgroup(annotations map[string]string) map[string]string {
	with := map[string]string{}
	maps.Copy(with, annotations)
	with[crunSubgroup] = ""
	return with
}

func (x *external) owner() (uid, gid int, err error) {
	root := func(mappings []specs.LinuxIDMapping) int {
		for _, m := range mappings {
			if m.ContainerID == 0 {
				return int(m.HostID)
			}
		}
		return 0
	}
	return root(x.spec.Linux.UIDMappings), root(x.spec.Linux.GIDMappings), nil
}

// prepare asks the library that the built-in runtime uses; runtimes agree on where a
// cgroupsPath is.
func (x *external) prepare() (map[string]string, error) {
	if err := os.MkdirAll(x.runtime.Root, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of runtime: %w", err)
	}
	m, err := cgroupManager(x.c.id, x.spec.Linux.CgroupsPath, x.runtime.SystemdCgroup)
	if err != nil {
		return nil, err
	}
	return maps.Clone(m.GetPaths()), nil
}

func (x *external) create(s *stdio) (pid int, process waiter, err error) {
	if x.restore != nil {
		return x.restoreByCRIU(s)
	}
	err = x.withStreams(s, func(streams ociruntime.Streams) error {
		pid, err = x.runtime.Create(x.c.ctx, x.c.id, x.spec, streams)
		return err
	})
	return pid, nil, x.sayMemory(err)
}

func (x *external) release(int) error {
	if x.restore != nil {
		return x.c.releaseRestored(x.pid, x.spec)
	}
	return x.sayMemory(x.runtime.Start(x.c.ctx, x.c.id, x.spec.Process))
}

// sayMemory adds to the error of a start why it failed, if the memory limit is too low for
// the runtime's own code in the container. The runtime sees only that its process is gone.
func (x *external) sayMemory(err error) error {
	if err == nil || !x.c.oomKilled() {
		return err
	}
	return fmt.Errorf("the container's memory limit is too low for the runtime's own process in it, which was killed: %w", err)
}

func (x *external) exec(e *execProcess, spec *specs.Process, s *stdio) (pid int, process waiter, err error) {
	if _, err := convertProcess(spec); err != nil {
		return 0, nil, err
	}
	sub := ""
	if x.c.execCgroup() {
		sub = e.subCgroupName()
	}
	err = x.withStreams(s, func(streams ociruntime.Streams) error {
		pid, err = x.runtime.Exec(context.Background(), x.c.id, spec, sub, streams)
		return err
	})
	if err != nil {
		return 0, nil, err
	}
	if sub == "" {
		// What the process forks before this is in the container's cgroup, and ends with
		// the container at the latest.
		e.enter(pid)
	}
	return pid, nil, nil
}

func (c *container) execCgroup() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec.Runtime != nil && c.rec.Runtime.ExecCgroup
}

// subCgroupName is the cgroup of the process as runtimes take it.
func (e *execProcess) subCgroupName() string {
	for controller, dir := range e.cgroup {
		if controller == "" {
			return filepath.Base(dir)
		}
		return controller + ":" + filepath.Base(dir)
	}
	return ""
}

// enter moves a process into the cgroup; it can have ended.
func (e *execProcess) enter(pid int) {
	for _, dir := range e.cgroup {
		err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			e.c.server.log.Warn("move exec'ed process into its cgroup", "container", e.c.id, "error", err)
		}
	}
}

func (x *external) signal(sig syscall.Signal) error {
	ticket := x.c.server.orphans.begin()
	defer x.c.server.orphans.finish(ticket)
	err := x.runtime.Kill(context.Background(), x.c.id, sig)
	if errors.Is(err, errdefs.ErrNotFound) {
		return unix.ESRCH
	}
	return err
}

func (x *external) update(resources *specs.LinuxResources) error {
	ticket := x.c.server.orphans.begin()
	defer x.c.server.orphans.finish(ticket)
	x.c.ops.Lock()
	defer x.c.ops.Unlock()
	changed := *resources
	// The devices have not changed.
	changed.Devices = nil
	if err := x.runtime.Update(context.Background(), x.c.id, &changed); err != nil {
		return err
	}
	return limitHugepages(x.c.cgroups(), resources.HugepageLimits)
}

// limitHugepages sets what the update command of runtimes has no means for.
func limitHugepages(paths map[string]string, limits []specs.LinuxHugepageLimit) error {
	dir, suffix := paths["hugetlb"], ".limit_in_bytes"
	if dir == "" {
		dir, suffix = paths[""], ".max"
	}
	if dir == "" {
		return nil
	}
	for _, l := range limits {
		file := filepath.Join(dir, "hugetlb."+l.Pagesize+suffix)
		if err := os.WriteFile(file, strconv.AppendUint(nil, l.Limit, 10), 0); err != nil {
			return fmt.Errorf("limit huge pages: %w", err)
		}
	}
	return nil
}

func (x *external) destroy() error {
	ticket := x.c.server.orphans.begin()
	defer x.c.server.orphans.finish(ticket)
	told, err := x.runtime.Delete(context.Background(), x.c.id)
	if told != nil {
		x.c.server.log.Warn("the runtime does not remove a container; its processes and its state are removed without it", "container", x.c.id, "error", told)
	}
	return err
}

// consoleTime is how long the master of a terminal may take after the program has ended;
// it is sent before.
const consoleTime = 5 * time.Second

// withStreams calls f with the streams in the form that a program takes: a terminal comes
// over a socket with a name.
func (x *external) withStreams(s *stdio, f func(ociruntime.Streams) error) error {
	if s.console == nil {
		return f(ociruntime.Streams{In: s.in, Out: s.out, Err: s.err})
	}
	path := filepath.Join(x.c.server.consolesDir(), strconv.FormatUint(x.c.server.lastExec.Add(1), 36))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("make socket for terminal: %w", err)
	}
	defer listener.Close()
	if err := f(ociruntime.Streams{Console: path}); err != nil {
		return err
	}
	if err := listener.SetDeadline(time.Now().Add(consoleTime)); err != nil {
		return err
	}
	conn, err := listener.AcceptUnix()
	if err != nil {
		return fmt.Errorf("receive terminal: %w", err)
	}
	defer conn.Close()
	file, err := conn.File()
	if err != nil {
		return fmt.Errorf("receive terminal: %w", err)
	}
	s.console.Close()
	s.console = file
	return nil
}
