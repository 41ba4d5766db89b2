package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/checkpoint-restore/go-criu/v8"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// criuName is CRIU's program, found in $PATH by libcontainer and by other runtimes.
const criuName = "criu"

// criuVersion is the oldest that can be used: 3.16 is the first that takes the profile of
// a security module for what it restores.
const criuVersion = 31600

// noNewPrivsVersion is the first that restores no_new_privs.
const noNewPrivsVersion = 31900

// criuState is what is known of the machine's CRIU.
type criuState struct {
	// work is taken by one who has CRIU work: what it starts can then be told apart.
	work chan struct{}

	mu sync.Mutex
	// usable is the program that was found to work on this kernel, and version its version.
	usable  os.FileInfo
	version int
}

func newCRIUState() criuState { return criuState{work: make(chan struct{}, 1)} }

// take waits for CRIU. Its user calls give.
func (s *criuState) take(ctx context.Context) error {
	select {
	case s.work <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another dump or restore: %w", context.Cause(ctx))
	}
}

func (s *criuState) give() { <-s.work }

// requireCRIU finds out whether CRIU is there and can work on this kernel; it is asked
// again after a no, and when the program is another one. The error is
// ErrFailedPrecondition, or the cause of ctx's end.
func (s *Server) requireCRIU(ctx context.Context) error {
	path, err := exec.LookPath(criuName)
	if err != nil {
		return fmt.Errorf("CRIU is not installed on this node (package criu), which checkpoints need: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("look at CRIU: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	s.criu.mu.Lock()
	defer s.criu.mu.Unlock()
	if old := s.criu.usable; old != nil && os.SameFile(old, info) && old.ModTime().Equal(info.ModTime()) {
		return nil
	}
	ticket := s.orphans.begin()
	defer s.orphans.finish(ticket)
	version, err := criu.MakeCriu().GetCriuVersion()
	if err != nil {
		return fmt.Errorf("ask CRIU for its version: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	if version < criuVersion {
		return fmt.Errorf("CRIU %s on this node is too old, %s is the oldest that can be used: %w", versionText(version), versionText(criuVersion), errdefs.ErrFailedPrecondition)
	}
	out, err := exec.CommandContext(ctx, path, "check").CombinedOutput()
	if ctx.Err() != nil {
		return fmt.Errorf("look whether CRIU can work on this node: %w", context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("CRIU %s cannot work on this node's kernel: criu check: %w: %s: %w", versionText(version), err, firstError(out), errdefs.ErrFailedPrecondition)
	}
	s.criu.usable, s.criu.version = info, version
	return nil
}

// checkRestorable refuses what CRIU, found usable, cannot restore as spec has it.
func (s *Server) checkRestorable(spec *specs.Spec) error {
	s.criu.mu.Lock()
	version := s.criu.version
	s.criu.mu.Unlock()
	if spec.Process.NoNewPrivileges && version < noNewPrivsVersion {
		return fmt.Errorf("it has no_new_privs, which CRIU %s does not restore; CRIU %s does: %w", versionText(version), versionText(noNewPrivsVersion), errdefs.ErrFailedPrecondition)
	}
	own := slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
	writable := slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool {
		return m.Type == "cgroup" && !slices.Contains(m.Options, "ro")
	})
	if own && writable {
		// CRIU makes cgroup namespaces along with cgroups alone, and those of an archive
		// are not used.
		return fmt.Errorf("it may write to its cgroups, and would be restored in the node's cgroup namespace: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

func versionText(v int) string { return fmt.Sprintf("%d.%d.%d", v/10000, v/100%100, v%100) }

// firstError is the line of CRIU's output that says what went wrong first.
func firstError(log []byte) string {
	const longest = 512
	for line := range bytes.Lines(log) {
		if at := bytes.Index(line, []byte("Error (")); at >= 0 {
			line = bytes.TrimSpace(line[at:])
			return strings.ToValidUTF8(string(line[:min(len(line), longest)]), "?")
		}
	}
	return "it does not say why"
}

// criuError adds to the error of libcontainer, or of another runtime, what CRIU's log says.
func criuError(err error, dir, log string) error {
	if err == nil {
		return nil
	}
	data, readErr := os.ReadFile(filepath.Join(dir, log))
	if errors.Is(readErr, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return fmt.Errorf("%w: CRIU says: %s: %w", err, firstError(data), errdefs.ErrFailedPrecondition)
}

// ignoreCgroups leaves cgroups alone: what is restored is put into the cgroup of its
// specification, and an archive says nothing about cgroups.
const ignoreCgroups = "ignore"

// criuOptions are the options for libcontainer.
func criuOptions(o protocol.CRIUOptions, images, work string) *libcontainer.CriuOpts {
	return &libcontainer.CriuOpts{
		ImagesDirectory: images, WorkDirectory: work,
		TcpEstablished: o.TCPEstablished, FileLocks: o.FileLocks, ExternalUnixConnections: o.ExternalUnix,
		ManageCgroupsMode: ignoreCgroups, StatusFd: -1,
	}
}
