package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer/exeseal"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// An upgrade replaces the program of this process by execve(2): the PID stays,
// the containers stay its children, and the descriptors listed in handover stay
// open. Before, requests under way are finished and everything that moves bytes
// is stopped at a point that can be described.

// ResumeEnv is the environment variable that tells the new program the
// descriptor of its handover.
const ResumeEnv = "BERTH_MONITOR_RESUME"

const (
	// finishTime bounds the wait for requests under way; after it the upgrade
	// is given up.
	finishTime = 30 * time.Second
	// checkTime bounds the test run of the new program.
	checkTime = 10 * time.Second
)

func (p *peer) upgrade(u *protocol.Upgrade) (answer, error) {
	exe, err := SealedCopy(u.Binary)
	if err != nil {
		return answer{}, fmt.Errorf("upgrade: %w", err)
	}
	ticket := p.s.orphans.begin()
	err = checkProgram(exe)
	p.s.orphans.finish(ticket)
	if err != nil {
		exe.Close()
		return answer{}, fmt.Errorf("upgrade: %w", err)
	}
	s := p.s
	s.mu.Lock()
	busy := s.closing
	s.closing = true
	s.mu.Unlock()
	if busy {
		exe.Close()
		return answer{}, fmt.Errorf("upgrade: another one is under way: %w", errdefs.ErrUnavailable)
	}
	return answer{sent: func() { go s.replace(exe) }}, nil
}

// SealedCopy copies a program into a memory file that nobody can change.
func SealedCopy(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("seal program: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("seal program: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("seal program %s: not a regular file: %w", path, errdefs.ErrInvalidArgument)
	}
	sealed, err := exeseal.CloneBinary(f, st.Size(), "berth-monitor", "/")
	if err != nil {
		return nil, fmt.Errorf("seal program %s: %w", path, err)
	}
	return sealed, nil
}

// checkProgram runs the program once, as there is no way back later.
func checkProgram(exe *os.File) error {
	ctx, cancel := context.WithTimeout(context.Background(), checkTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3", "version")
	cmd.ExtraFiles = []*os.File{exe}
	cmd.Env = []string{}
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("try new program: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if !strings.HasPrefix(string(out), "berth-monitor ") {
		return fmt.Errorf("try new program: it is no berth-monitor: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// replace does it. It returns only if it was given up.
func (s *Server) replace(exe *os.File) {
	defer exe.Close()
	if err := s.quiesce(); err != nil {
		s.log.Error("upgrade", "error", err)
		s.mu.Lock()
		s.closing = false
		s.mu.Unlock()
		_ = s.listener.SetDeadline(time.Time{})
		s.resumed <- struct{}{}
		return
	}
	err := s.execute(exe, s.handOver())
	// The containers are stopped half-way in here, but not in themselves: the
	// daemon starts another monitor and gives it what it keeps.
	s.log.Error("upgrade", "error", err)
	os.Exit(1)
}

// quiesce has requests finished and clients sent away.
func (s *Server) quiesce() error {
	_ = s.listener.SetDeadline(past)
	// A connection may still be accepted after the deadline was set; it is one
	// of those below then.
	<-s.parked
	s.mu.Lock()
	peers := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for _, p := range peers {
			_ = p.conn.StopReceiving()
			<-p.received
			p.requests.Wait()
		}
	}()
	var err error
	select {
	case <-finished:
	case <-time.After(finishTime):
		err = errors.New("requests under way do not finish")
	}
	// In either case nothing more is received on these connections.
	for _, p := range peers {
		_ = p.conn.SendJSON(protocol.Frame{Kind: protocol.FrameGoAway}, protocol.GoAway{LastID: p.lastID})
		p.end()
	}
	return err
}

// handover is what the next program needs beyond the records. Numbers of
// descriptors are those of this process, and stay.
type handover struct {
	Version     int             `json:"version"`
	Listener    int             `json:"listener"`
	Lock        int             `json:"lock"`
	OOMScoreAdj int             `json:"oomScoreAdj"`
	Containers  []handoverEntry `json:"containers"`
}

const handoverVersion = 1

type handoverEntry struct {
	ID       string           `json:"id"`
	Pidfd    int              `json:"pidfd"`
	Stdin    int              `json:"stdin"`
	Streams  []handoverStream `json:"streams,omitempty"`
	Execs    []handoverExec   `json:"execs,omitempty"`
	Attached []handoverClient `json:"attached,omitempty"`
}

type handoverStream struct {
	Kind    uint8  `json:"kind"`
	TTY     bool   `json:"tty,omitempty"`
	FD      int    `json:"fd"`
	Seen    int    `json:"seen,omitempty"`
	Partial []byte `json:"partial,omitempty"`
}

type handoverExec struct {
	ID        string            `json:"id"`
	Pid       int               `json:"pid"`
	StartedAt time.Time         `json:"startedAt"`
	Pidfd     int               `json:"pidfd"`
	Result    int               `json:"result"`
	Cgroup    map[string]string `json:"cgroup,omitempty"`
}

type handoverClient struct {
	// Stdin, Stdout and Stderr are -1 where the client has none.
	Stdin  int             `json:"stdin"`
	Stdout int             `json:"stdout"`
	Stderr int             `json:"stderr"`
	Done   int             `json:"done"`
	Ending bool            `json:"ending,omitempty"`
	Input  []byte          `json:"input,omitempty"`
	Queue  []handoverPiece `json:"queue,omitempty"`
}

type handoverPiece struct {
	Stream uint8  `json:"stream"`
	Data   []byte `json:"data"`
}

// handOver stops everything that moves and describes it. Locks taken in here
// are not released.
func (s *Server) handOver() handover {
	s.poller.stop()
	<-s.poller.stopped
	h := handover{Version: handoverVersion, Lock: s.lock, OOMScoreAdj: s.oomScore, Listener: descriptor(s.listener)}
	for _, c := range s.list() {
		c.ending.Lock()
		entry := handoverEntry{ID: c.id}
		// Clients come first, as one whose input ends closes the container's.
		for _, a := range c.sessions() {
			entry.Attached = append(entry.Attached, a.handOver())
		}
		c.mu.Lock()
		execs := slices.Collect(maps.Values(c.execs))
		entry.Pidfd, entry.Stdin = c.pidfd, c.stdin
		c.mu.Unlock()
		for _, st := range c.outputs() {
			st.mu.Lock()
			entry.Streams = append(entry.Streams, handoverStream{
				Kind: uint8(st.kind), TTY: st.tty, FD: st.fd, Seen: st.seen, Partial: st.partial,
			})
		}
		for _, e := range execs {
			if x, ok := e.handOver(); ok {
				entry.Execs = append(entry.Execs, x)
			}
		}
		h.Containers = append(h.Containers, entry)
	}
	return h
}

func (e *execProcess) handOver() (handoverExec, bool) {
	e.ending.Lock()
	return handoverExec{
		ID: e.id, Pid: e.pid, StartedAt: e.startedAt, Pidfd: e.pidfd, Result: e.result, Cgroup: e.cgroup,
	}, e.pidfd >= 0
}

func (a *attachment) handOver() handoverClient {
	a.pause()
	h := handoverClient{
		Stdin: fileDescriptor(a.stdin), Stdout: fileDescriptor(a.out[0]), Stderr: fileDescriptor(a.out[1]),
		Done: fileDescriptor(a.done), Ending: a.ending, Input: a.input,
	}
	for _, p := range a.queue {
		h.Queue = append(h.Queue, handoverPiece{uint8(p.stream), p.data})
	}
	return h
}

// descriptors lists what the next program inherits.
func (h *handover) descriptors() []int {
	all := []int{h.Listener, h.Lock}
	for _, c := range h.Containers {
		all = append(all, c.Pidfd, c.Stdin)
		for _, s := range c.Streams {
			all = append(all, s.FD)
		}
		for _, e := range c.Execs {
			all = append(all, e.Pidfd, e.Result)
		}
		for _, a := range c.Attached {
			all = append(all, a.Stdin, a.Stdout, a.Stderr, a.Done)
		}
	}
	return all
}

// execute runs the new program in this process.
func (s *Server) execute(exe *os.File, h handover) error {
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	memory, err := unix.MemfdCreate("handover", 0)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	for written := 0; written < len(data); {
		n, err := unix.Write(memory, data[written:])
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		written += n
	}
	for _, fd := range h.descriptors() {
		if fd < 0 {
			continue
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
	}
	path := "/proc/self/fd/" + strconv.Itoa(int(exe.Fd()))
	env := []string{"PATH=" + os.Getenv("PATH"), ResumeEnv + "=" + strconv.Itoa(memory)}
	return os.NewSyscallError("execve", unix.Exec(path, os.Args, env))
}

// descriptor returns the number of what is open already; -1 is none.
func descriptor(c syscall.Conn) int {
	fd := -1
	raw, err := c.SyscallConn()
	if err == nil {
		_ = raw.Control(func(n uintptr) { fd = int(n) })
	}
	return fd
}

func fileDescriptor(f *os.File) int {
	if f == nil {
		return -1
	}
	return descriptor(f)
}
