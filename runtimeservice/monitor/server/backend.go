package server

import (
	"context"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// A starter makes a container and its first process: libcontainer in this process, or the
// program of another OCI runtime. The calls come in the order of the methods, each once.
type starter interface {
	// owner is whom the container's pipes have to belong to on the node, so that a
	// container in a user namespace can open them again.
	owner() (uid, gid int, err error)
	// prepare returns the directories of the container's cgroups by controller. What it
	// leaves goes with destroy.
	prepare() (cgroups map[string]string, err error)
	// create makes the container; its first process waits for release. process is the
	// handle to be waited for, nil where the process only became a child of the monitor.
	create(s *stdio) (pid int, process waiter, err error)
	// release lets the first process, whose pidfd is given, execute the command.
	release(pidfd int) error
}

// A keeper does what is asked of a container that exists. It can be made of the
// container's record alone, as the next monitor has to.
type keeper interface {
	// exec starts one more process, in the cgroup of e.
	exec(e *execProcess, spec *specs.Process, s *stdio) (pid int, process waiter, err error)
	// signal sends a signal other than SIGKILL to the first process.
	signal(sig syscall.Signal) error
	// update changes limits; what is not set stays.
	update(resources *specs.LinuxResources) error
	// dump writes CRIU's images of the frozen container into a directory, until ctx ends.
	dump(ctx context.Context, req *protocol.Dump) error
	// destroy removes what the runtime keeps of a container without processes. It is
	// idempotent.
	destroy() error
}

// backend is the whole of a runtime for one container.
type backend interface {
	starter
	keeper
}

// newBackend checks a request to start and returns what will run it.
func (c *container) newBackend(req *protocol.Start) (backend, error) {
	if req.Runtime == nil {
		return c.newBuiltin(req)
	}
	return c.newExternal(req)
}

// keeper returns what keeps the container, of its record.
func (c *container) keeper() keeper {
	c.mu.Lock()
	runtime := c.rec.Runtime
	c.mu.Unlock()
	if runtime == nil {
		return &builtin{c: c}
	}
	return &external{c: c, runtime: c.server.ociRuntime(runtime)}
}
