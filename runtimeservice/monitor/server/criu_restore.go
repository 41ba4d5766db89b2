package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/ociruntime"
	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// A container that is restored takes the way of one that is started. CRIU makes its
// processes, and leaves them stopped; in place of telling the first one to execute a
// command, release looks whether they are what the specification allows, which an archive
// from elsewhere need not be, and has them go on.

// restoreLog is CRIU's log of a restore, in the directory for it.
const restoreLog = "restore.log"

// criuConfig is the annotation that names a file of options for CRIU, as libcontainer and
// other runtimes have it. CRIU runs programs that such a file names: nobody but the monitor
// may set it.
const criuConfig = "org.criu.config"

// leaveStopped is the content of such a file.
const leaveStopped = "leave-stopped\n"

// criuConfigsDir holds one for each container that is being restored. Those that are named
// and not there have no effect.
func (s *Server) criuConfigsDir() string { return filepath.Join(s.dir, "criu") }

func (s *Server) criuConfigPath(id string) string {
	return filepath.Join(s.criuConfigsDir(), id+".conf")
}

// criuAnnotations are the annotations of a container without what could change how CRIU
// works, and with what has it leave processes stopped.
func (s *Server) criuAnnotations(req *protocol.Start) map[string]string {
	all := make(map[string]string, len(req.Spec.Annotations)+1)
	for k, v := range req.Spec.Annotations {
		if k != criuConfig {
			all[k] = v
		}
	}
	if req.Restore != nil {
		all[criuConfig] = s.criuConfigPath(req.ID)
	}
	return all
}

// restoreByCRIU has CRIU make the processes of a container by calling restore.
func (c *container) restoreByCRIU(r *protocol.Restore, spec *specs.Spec, restore func(ctx context.Context) error) error {
	if !filepath.IsAbs(r.Images) || !filepath.IsAbs(r.Work) {
		return fmt.Errorf("restore from %q with log in %q: the paths have to be absolute: %w", r.Images, r.Work, errdefs.ErrInvalidArgument)
	}
	s := c.server
	if err := s.requireCRIU(c.ctx); err != nil {
		return err
	}
	if err := s.checkRestorable(spec); err != nil {
		return err
	}
	if err := s.criu.take(c.ctx); err != nil {
		return err
	}
	defer s.criu.give()
	options := s.criuConfigPath(c.id)
	if err := os.WriteFile(options, []byte(leaveStopped), 0o600); err != nil {
		return fmt.Errorf("write options of CRIU: %w", err)
	}
	defer os.Remove(options)
	defer whenDone(c.ctx, killCRIU)()
	keep, err := keepHostname(spec)
	if err != nil {
		return err
	}
	return errors.Join(criuError(restore(c.ctx), r.Work, restoreLog), keep())
}

// lsmOptions are what the restored processes and mounts get from a security module; what
// the archive says of it is not used.
func lsmOptions(spec *specs.Spec) (profile, mounts string) {
	switch {
	case spec.Process.ApparmorProfile != "":
		profile = "apparmor:" + spec.Process.ApparmorProfile
	case spec.Process.SelinuxLabel != "":
		profile = "selinux:" + spec.Process.SelinuxLabel
	}
	return profile, spec.Linux.MountLabel
}

func (b *builtin) restoreByCRIU(s *stdio) (int, waiter, error) {
	s.give(b.process)
	err := b.c.restoreByCRIU(b.restore, b.spec, func(context.Context) error {
		options := criuOptions(b.restore.CRIUOptions, b.restore.Images, b.restore.Work)
		options.LsmProfile, options.LsmMountContext = lsmOptions(b.spec)
		return b.lib.Restore(b.process, options)
	})
	if err != nil {
		return 0, nil, err
	}
	b.pid, err = b.process.Pid()
	return b.pid, b.process, err
}

func (x *external) restoreByCRIU(s *stdio) (pid int, process waiter, err error) {
	err = x.c.restoreByCRIU(x.restore, x.spec, func(ctx context.Context) error {
		return x.withStreams(s, func(streams ociruntime.Streams) error {
			options := ociruntimeOptions(x.restore.CRIUOptions)
			options.LSMProfile, options.LSMMountContext = lsmOptions(x.spec)
			pid, err = x.runtime.Restore(ctx, x.c.id, x.spec, x.restore.Images, x.restore.Work, options, streams)
			return err
		})
	})
	x.pid = pid
	return pid, nil, err
}

func ociruntimeOptions(o protocol.CRIUOptions) ociruntime.CRIUOptions {
	return ociruntime.CRIUOptions{
		TCPEstablished: o.TCPEstablished, FileLocks: o.FileLocks, ExternalUnix: o.ExternalUnix,
		ManageCgroups: ignoreCgroups,
	}
}

// releaseRestored has the restored processes go on if they are what spec allows.
func (c *container) releaseRestored(pid int, spec *specs.Spec) error {
	paths := c.cgroups()
	pids, err := processesOf(paths)
	if err != nil {
		return err
	}
	want := restored{spec: spec, init: pid}
	for _, p := range pids {
		if err := want.checkProcess(p); err != nil {
			return fmt.Errorf("what was restored is not used: process %d: %w", p, err)
		}
	}
	if err := want.checkMounts(); err != nil {
		return fmt.Errorf("what was restored is not used: %w", err)
	}
	for _, p := range pids {
		if err := unix.Kill(p, unix.SIGCONT); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("let restored process %d go on: %w", p, err)
		}
	}
	return nil
}
