package server

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/pidfd"
	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// find returns a container that runs.
func (s *Server) find(id string) (*container, error) {
	c := s.get(id)
	if c == nil {
		return nil, fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
	}
	return c, c.checkRunning()
}

func (c *container) cgroups() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec.Cgroups
}

// libcontainer returns libcontainer's object, loaded from its state where an
// earlier monitor has started the container.
func (c *container) libcontainer() (*libcontainer.Container, error) {
	c.ops.Lock()
	defer c.ops.Unlock()
	c.mu.Lock()
	lib, podInit, runtime := c.lib, c.rec.PodInit, c.rec.Runtime
	c.mu.Unlock()
	if lib != nil {
		return lib, nil
	}
	if podInit {
		return nil, fmt.Errorf("%q is the init of a pod, not a container: %w", c.id, errdefs.ErrInvalidArgument)
	}
	if runtime != nil {
		return nil, fmt.Errorf("container %q is run by %s, not by Berth itself: %w", c.id, runtime.Path, errdefs.ErrFailedPrecondition)
	}
	lib, err := libcontainer.Load(c.server.stateDir(), c.id)
	if err != nil {
		return nil, fmt.Errorf("load state of container %q: %w", c.id, err)
	}
	if profile := lib.Config().Seccomp; profile != nil {
		if _, err := c.server.compileProfile(profile); err != nil {
			c.server.log.Warn("compile seccomp profile", "container", c.id, "error", err)
		}
	}
	c.mu.Lock()
	c.lib = lib
	c.mu.Unlock()
	return lib, nil
}

// signal sends a signal to a running container; it is NotFound when that is
// gone.
func (s *Server) signal(req *protocol.Signal) error {
	c, err := s.find(req.ID)
	if err != nil {
		return err
	}
	sig := syscall.Signal(req.Signal)
	if req.Signal < 1 || req.Signal > 64 {
		return fmt.Errorf("signal %d: %w", req.Signal, errdefs.ErrInvalidArgument)
	}
	if req.All {
		if err := c.signalAll(sig); err != nil {
			return fmt.Errorf("signal processes of container %q: %w", c.id, err)
		}
	}
	if !req.All || len(c.cgroups()) == 0 {
		return c.signalFirst(sig)
	}
	return nil
}

// signalAll signals every process of the container's cgroup.
func (c *container) signalAll(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != running {
		return fmt.Errorf("it does not run: %w", errdefs.ErrNotFound)
	}
	return signalCgroup(c.rec.Cgroups, sig)
}

// signalFirst signals the first process. SIGKILL needs nobody's help.
func (c *container) signalFirst(sig syscall.Signal) error {
	var err error
	if sig == syscall.SIGKILL {
		err = c.signalPid(sig)
	} else {
		err = c.keeper().signal(sig)
	}
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("container %q has ended: %w", c.id, errdefs.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("signal container %q: %w", c.id, err)
	}
	return nil
}

// signalPid signals the first process; ESRCH if it has ended.
func (c *container) signalPid(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != running {
		return unix.ESRCH
	}
	return pidfd.Signal(c.pidfd, sig)
}

// update changes limits of a running container; what is not set stays.
func (s *Server) update(req *protocol.Update) error {
	c, err := s.find(req.ID)
	if err != nil {
		return err
	}
	if req.Resources == nil {
		return nil
	}
	if err := c.keeper().update(req.Resources); err != nil {
		return fmt.Errorf("update container %q: %w", c.id, err)
	}
	return nil
}

func applyResources(to *cgroups.Resources, r *specs.LinuxResources) {
	if m := r.Memory; m != nil {
		set(&to.Memory, m.Limit)
		set(&to.MemorySwap, m.Swap)
		set(&to.MemoryReservation, m.Reservation)
		set(&to.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
		if m.Limit != nil && *m.Limit == -1 && m.Swap == nil {
			to.MemorySwap = 0
		}
	}
	if p := r.Pids; p != nil && p.Limit != nil {
		to.PidsLimit = p.Limit
	}
	applyCPU(to, r.CPU)
	for _, h := range r.HugepageLimits {
		applyHugepage(to, h)
	}
	if b := r.BlockIO; b != nil {
		set(&to.BlkioWeight, b.Weight)
	}
	if len(r.Unified) > 0 {
		unified := map[string]string{}
		maps.Copy(unified, to.Unified)
		maps.Copy(unified, r.Unified)
		to.Unified = unified
	}
}

func applyCPU(to *cgroups.Resources, c *specs.LinuxCPU) {
	if c == nil {
		return
	}
	if c.Shares != nil {
		to.CpuShares = *c.Shares
		to.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*c.Shares)
	}
	set(&to.CpuQuota, c.Quota)
	set(&to.CpuPeriod, c.Period)
	set(&to.CpuRtRuntime, c.RealtimeRuntime)
	set(&to.CpuRtPeriod, c.RealtimePeriod)
	if c.Burst != nil {
		to.CpuBurst = c.Burst
	}
	if c.Idle != nil {
		to.CPUIdle = c.Idle
	}
	if c.Cpus != "" {
		to.CpusetCpus = c.Cpus
	}
	if c.Mems != "" {
		to.CpusetMems = c.Mems
	}
}

func applyHugepage(to *cgroups.Resources, h specs.LinuxHugepageLimit) {
	limits := slices.Clone(to.HugetlbLimit)
	for i, old := range limits {
		if old.Pagesize == h.Pagesize {
			limits[i] = &cgroups.HugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit}
			to.HugetlbLimit = limits
			return
		}
	}
	to.HugetlbLimit = append(limits, &cgroups.HugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit})
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// remove ends what is left of a container and removes everything of it. It is
// idempotent. A start under way is cancelled.
func (s *Server) remove(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	c := s.get(id)
	if c == nil {
		return s.clearLeftovers(id)
	}
	c.cancelStart()
	c.removing.Lock()
	defer c.removing.Unlock()
	if h := s.holdOf(id); h != nil {
		// Processes do not end as long as CRIU traces them.
		h.cancel(errRemoved)
		<-h.ended
	}
	if c.startErr != nil || c.isDeleted() {
		return nil
	}
	if err := c.destroy(); err != nil {
		return fmt.Errorf("remove container %q: %w", id, err)
	}
	s.mu.Lock()
	delete(s.containers, id)
	s.mu.Unlock()
	return nil
}

// cancelInterval is how often a start that is cancelled has its processes ended;
// it may fork more meanwhile.
const cancelInterval = 20 * time.Millisecond

// cancelStart waits for a start under way, and ends its processes so that it
// fails soon.
func (c *container) cancelStart() {
	c.mu.Lock()
	c.cancelled = c.phase == starting
	c.mu.Unlock()
	c.cancel()
	for {
		select {
		case <-c.started:
			return
		default:
		}
		_ = signalCgroup(c.cgroups(), syscall.SIGKILL)
		select {
		case <-c.started:
			return
		case <-time.After(cancelInterval):
		}
	}
}

func (c *container) isDeleted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.phase == deleted
}

// destroy ends every process, and only when there is none left removes the
// cgroup, libcontainer's state and the record; so it can be repeated.
func (c *container) destroy() error {
	c.mu.Lock()
	if c.phase == running {
		_ = pidfd.Signal(c.pidfd, syscall.SIGKILL)
	}
	fd, pid, paths := c.pidfd, c.rec.Pid, c.rec.Cgroups
	c.mu.Unlock()
	if err := emptyCgroup(paths); err != nil {
		return err
	}
	if fd >= 0 && !pidfd.Wait(fd, int(killWait.Milliseconds())) {
		return fmt.Errorf("process %d does not end", pid)
	}
	// The exit is reaped here if the poller has not got to it yet.
	c.reap()
	if err := c.keeper().destroy(); err != nil {
		return err
	}
	if err := removeCgroup(paths); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(c.server.stateDir(), c.id)); err != nil {
		return err
	}
	if err := c.removeRecord(); err != nil {
		return err
	}
	c.release()
	return nil
}

// reopenLog begins a new log file.
func (s *Server) reopenLog(id string) error {
	c, err := s.find(id)
	if err != nil {
		return err
	}
	if c.log == nil {
		return nil
	}
	if err := c.log.Reopen(); err != nil {
		return fmt.Errorf("reopen log of container %q: %w", id, err)
	}
	return nil
}

// resize sets the size of a container's terminal.
func (s *Server) resize(req *protocol.Resize) error {
	c, err := s.find(req.ID)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.rec.Terminal || c.stdin < 0 {
		return fmt.Errorf("container %q has no terminal: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	size := unix.Winsize{Row: req.Height, Col: req.Width}
	if err := unix.IoctlSetWinsize(c.stdin, unix.TIOCSWINSZ, &size); err != nil {
		return fmt.Errorf("resize terminal of container %q: %w", c.id, err)
	}
	return nil
}
