// Package ociruntime drives the command line that OCI runtimes share: create, start, exec,
// kill, update, delete.
//
// Every call has a deadline, and a program that does not end by then is killed with the
// processes of its group and left alone. So a runtime that hangs hurts the one container
// that was asked about. The processes that it starts become children of the nearest
// subreaper above, which has to be the caller: it gets their PIDs, and their exits are its
// own to reap.
package ociruntime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// How long each command may take. Beside what the runtime does itself, create and exec
// wait for the first instructions of a process in the container.
const (
	createTime = time.Minute
	execTime   = time.Minute
	startTime  = 20 * time.Second
	updateTime = 20 * time.Second
	killTime   = 10 * time.Second
	deleteTime = 10 * time.Second
)

// Runtime is the program of an OCI runtime.
type Runtime struct {
	Path string
	// Args come before the command.
	Args []string
	// Root is the directory of the runtime's state.
	Root string
	// Bundles is the directory of the containers' bundles.
	Bundles string
	// SystemdCgroup has systemd make the cgroups.
	SystemdCgroup bool
}

// Streams are the standard streams of a process in a container; all nil with a terminal.
type Streams struct {
	In, Out, Err *os.File
	// Console is the path of the socket that gets the master of the terminal.
	Console string
}

// Create makes the bundle of a container and the container, whose first process then waits
// for Start. It returns that process. What a failed one leaves goes with Delete.
func (r *Runtime) Create(ctx context.Context, id string, spec *specs.Spec, streams Streams) (pid int, err error) {
	bundle := r.bundle(id)
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		return 0, fmt.Errorf("make bundle: %w", err)
	}
	if err := writeJSON(filepath.Join(bundle, "config.json"), spec); err != nil {
		return 0, fmt.Errorf("write specification: %w", err)
	}
	pidFile := filepath.Join(bundle, "pid")
	args := []string{"--bundle", bundle, "--pid-file", pidFile}
	if streams.Console != "" {
		args = append(args, "--console-socket", streams.Console)
	}
	if err := r.runProcess(ctx, createTime, id, "create", spec.Process, streams, append(args, id)...); err != nil {
		return 0, commandError(err, spec.Process.Args[0], spec.Process.Cwd)
	}
	return readPID(pidFile)
}

// Start lets the container's first process execute the command.
func (r *Runtime) Start(ctx context.Context, id string, process *specs.Process) error {
	if err := r.run(ctx, startTime, id, "start", id); err != nil {
		return commandError(err, process.Args[0], process.Cwd)
	}
	return nil
}

// Exec starts one more process, in a cgroup below the container's if subCgroup is not empty:
// controller:name, or name on cgroup v2. It returns when the command runs.
func (r *Runtime) Exec(ctx context.Context, id string, process *specs.Process, subCgroup string, streams Streams) (pid int, err error) {
	dir, err := os.MkdirTemp(r.bundle(id), "exec-")
	if err != nil {
		return 0, fmt.Errorf("make directory of process: %w", err)
	}
	defer os.RemoveAll(dir)
	specFile, pidFile := filepath.Join(dir, "process.json"), filepath.Join(dir, "pid")
	if err := writeJSON(specFile, process); err != nil {
		return 0, fmt.Errorf("write process: %w", err)
	}
	args := []string{"--process", specFile, "--detach", "--pid-file", pidFile}
	if streams.Console != "" {
		args = append(args, "--console-socket", streams.Console)
	}
	if subCgroup != "" {
		args = append(args, "--cgroup", subCgroup)
	}
	if err := r.runProcess(ctx, execTime, id, "exec", process, streams, append(args, id)...); err != nil {
		return 0, commandError(err, process.Args[0], process.Cwd)
	}
	return readPID(pidFile)
}

// Kill sends a signal to the container's first process.
func (r *Runtime) Kill(ctx context.Context, id string, sig syscall.Signal) error {
	return r.run(ctx, killTime, id, "kill", id, strconv.Itoa(int(sig)))
}

// Update changes the limits of a container.
func (r *Runtime) Update(ctx context.Context, id string, resources *specs.LinuxResources) error {
	file, err := os.CreateTemp(r.bundle(id), "resources-")
	if err != nil {
		return fmt.Errorf("write resources: %w", err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if err := writeJSON(file.Name(), resources); err != nil {
		return fmt.Errorf("write resources: %w", err)
	}
	return r.run(ctx, updateTime, id, "update", "--resources", file.Name(), id)
}

// Delete removes what the runtime keeps of a container, and the bundle. It is idempotent.
// A runtime that is gone, hangs or fails keeps nothing from being removed: what it knew of
// the container is removed without it, and its error is returned as told.
func (r *Runtime) Delete(ctx context.Context, id string) (told, err error) {
	if _, err := os.Lstat(r.bundle(id)); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	told = r.run(ctx, deleteTime, id, "delete", "--force", id)
	if err := os.RemoveAll(filepath.Join(r.Root, id)); err != nil {
		return told, fmt.Errorf("remove state of container: %w", err)
	}
	if err := os.RemoveAll(r.bundle(id)); err != nil {
		return told, fmt.Errorf("remove bundle: %w", err)
	}
	return told, nil
}

func (r *Runtime) bundle(id string) string { return filepath.Join(r.Bundles, id) }

func writeJSON(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// maxPIDFile is more than any PID takes.
const maxPIDFile = 32

func readPID(path string) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("read PID: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPIDFile))
	if err != nil {
		return 0, fmt.Errorf("read PID: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("read PID: %q is none: %w", data, errdefs.ErrUnknown)
	}
	return pid, nil
}
