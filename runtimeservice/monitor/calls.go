package monitor

import (
	"context"
	"fmt"
	"syscall"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// ErrCommand is what Start and Exec wrap, beside errdefs.ErrInvalidArgument,
// when the command does not exist in the container or may not be executed there;
// the message names it.
var ErrCommand = protocol.ErrCommand

// Start creates a container and runs its command. It is idempotent: a start of
// the same ID that is under way is waited for, and that of a container that runs
// or has exited already returns what is known of it. When ctx ends first the
// start goes on; Delete cancels it. After an error nothing of the container is
// left.
func (c *Client) Start(ctx context.Context, r StartRequest) (Started, error) {
	clients, err := openClients(r.Attach)
	if err != nil {
		return Started{}, fmt.Errorf("start container %q: %w", r.ID, err)
	}
	defer clients.release()
	started, err := c.start(ctx, r.ID, protocol.MethodStart, protocol.Start{
		ID: r.ID, Spec: r.Spec, SystemdCgroup: r.SystemdCgroup,
		LogPath: r.LogPath, Stdin: r.Stdin, StdinOnce: r.StdinOnce,
		Runtime: r.Runtime, Attach: clients.bodies, Restore: r.Restore,
	}, clients.fds)
	if err == nil {
		started.Ended = clients.watch()
	}
	return started, err
}

// StartPodInit starts the init process of a pod. It is idempotent as Start is,
// and the process is signalled, listed and deleted by its ID like a container.
// It reaps what the pod's containers leave, and ends with status 0 on SIGTERM
// from outside the pod.
func (c *Client) StartPodInit(ctx context.Context, r PodInitRequest) (Started, error) {
	return c.start(ctx, r.ID, protocol.MethodStartPodInit, protocol.StartPodInit{
		ID: r.ID, IPC: r.IPC, UTS: r.UTS, Net: r.Net, User: r.User, Label: r.Label,
		CgroupsPath: r.CgroupsPath, SystemdCgroup: r.SystemdCgroup,
	}, nil)
}

func (c *Client) start(ctx context.Context, id string, method protocol.Method, body any, fds []int) (Started, error) {
	var started protocol.Started
	// The container runs even if the caller no longer waits, and its
	// descriptors have to be kept.
	late := func(frame *protocol.Frame) {
		if err := c.keep(id, frame, &started); err != nil {
			c.log.Error("keep descriptors of container", "container", id, "error", err)
		}
	}
	frame, err := c.do(ctx, method, body, fds, late)
	if err != nil {
		return Started{}, err
	}
	if err := c.keep(id, frame, &started); err != nil {
		return Started{}, fmt.Errorf("keep descriptors: %w", err)
	}
	return Started{Pid: started.Pid, StartedAt: started.StartedAt}, nil
}

// Signal sends a signal to the init process of a container or, with all, to
// every process of its cgroup. The error wraps errdefs.ErrNotFound when the
// container does not run.
func (c *Client) Signal(ctx context.Context, id string, sig syscall.Signal, all bool) error {
	return c.doJSON(ctx, protocol.MethodSignal, protocol.Signal{ID: id, Signal: int(sig), All: all}, nil)
}

// Delete ends what is left of a container and removes its cgroup, its state and
// its exit. It is idempotent; after an error it can be repeated. Its log file and
// root file system stay.
func (c *Client) Delete(ctx context.Context, id string) error {
	if err := c.doJSON(ctx, protocol.MethodDelete, protocol.Named{ID: id}, nil); err != nil {
		return err
	}
	c.forget(id)
	c.exits.forget(id)
	return nil
}

// ReopenLog begins a new log file at the path of the old one, which has been
// renamed. No output is lost or repeated.
func (c *Client) ReopenLog(ctx context.Context, id string) error {
	return c.doJSON(ctx, protocol.MethodReopenLog, protocol.Named{ID: id}, nil)
}

// Resize sets the size of a container's terminal, in characters.
func (c *Client) Resize(ctx context.Context, id string, width, height uint16) error {
	return c.doJSON(ctx, protocol.MethodResize, protocol.Resize{ID: id, Width: width, Height: height}, nil)
}

// List returns all containers that were started and not deleted.
func (c *Client) List(ctx context.Context) ([]Container, error) {
	var list protocol.List
	if err := c.doJSON(ctx, protocol.MethodList, struct{}{}, &list); err != nil {
		return nil, err
	}
	all := make([]Container, 0, len(list.Containers))
	for _, e := range list.Containers {
		entry := Container{ID: e.ID, Pid: e.Pid, StartedAt: e.StartedAt}
		if e.Exit != nil {
			exit := exitOf(*e.Exit)
			entry.Exit = &exit
		}
		all = append(all, entry)
	}
	return all, nil
}

// Info describes the monitor.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var i protocol.Info
	if err := c.doJSON(ctx, protocol.MethodInfo, struct{}{}, &i); err != nil {
		return Info{}, err
	}
	return Info{
		Pid: i.Pid, Version: i.Program, Protocol: i.Version,
		Containers: i.Containers, StartedAt: i.StartedAt,
	}, nil
}

// Upgrade has the monitor re-execute itself with Options.Binary, under the same
// PID and as parent of the same containers, and returns when the new program
// answers. Requests under way are finished first; later ones wait for it. A
// program that is no berth-monitor is refused and nothing changes.
func (c *Client) Upgrade(ctx context.Context) error {
	s, err := c.current(ctx)
	if err != nil {
		return err
	}
	if err := s.callJSON(ctx, protocol.MethodUpgrade, protocol.Upgrade{Binary: c.options.Binary}, nil); err != nil {
		return err
	}
	select {
	case <-s.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	return c.connect(ctx)
}
