package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/logfile"
)

// Resume is what a program that was executed in place of another one got from
// it: the listener, the lock and the containers.
type Resume struct {
	Listener *net.UnixListener
	// Lock is the descriptor of the lock of the directory.
	Lock int
	// OOMScoreAdj is that of Options.
	OOMScoreAdj int

	handover handover
}

// ReadResume reads the handover in the given descriptor.
func ReadResume(fd int) (*Resume, error) {
	f := os.NewFile(uintptr(fd), "handover")
	defer f.Close()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read handover: %w", err)
	}
	r := &Resume{}
	if err := json.NewDecoder(f).Decode(&r.handover); err != nil {
		return nil, fmt.Errorf("read handover: %w", err)
	}
	if v := r.handover.Version; v != handoverVersion {
		return nil, fmt.Errorf("read handover: version %d, not %d", v, handoverVersion)
	}
	for _, fd := range r.handover.descriptors() {
		if fd >= 0 {
			unix.CloseOnExec(fd)
		}
	}
	r.Lock, r.OOMScoreAdj = r.handover.Lock, r.handover.OOMScoreAdj
	file := os.NewFile(uintptr(r.handover.Listener), "listener")
	defer file.Close()
	l, err := net.FileListener(file)
	if err != nil {
		return nil, fmt.Errorf("take over listener: %w", err)
	}
	listener, ok := l.(*net.UnixListener)
	if !ok {
		return nil, fmt.Errorf("take over listener: it is a %T", l)
	}
	listener.SetUnlinkOnClose(false)
	r.Listener = listener
	return r, nil
}

// resume takes up what the program before had.
func (s *Server) resume(r *Resume) {
	all, errs := s.records.load()
	for _, err := range errs {
		s.log.Error("resume", "error", err)
	}
	entries := map[string]handoverEntry{}
	for _, e := range r.handover.Containers {
		entries[e.ID] = e
	}
	for _, rec := range all {
		entry, ok := entries[rec.ID]
		if !ok {
			s.recoverContainer(rec)
			continue
		}
		delete(entries, rec.ID)
		s.resumeOne(rec, entry)
	}
	for id, e := range entries {
		s.log.Error("resume: container has no record", "container", id)
		h := handover{Containers: []handoverEntry{e}}
		closeFDs(h.descriptors()[2:]...)
	}
}

func (s *Server) resumeOne(rec *record, entry handoverEntry) {
	c := s.newContainer(rec.ID)
	c.rec, c.announced = *rec, true
	c.pidfd, c.stdin = entry.Pidfd, entry.Stdin
	c.phase = running
	if rec.Exit != nil {
		c.phase = exited
	}
	if rec.LogPath != "" {
		log, err := logfile.Open(rec.LogPath)
		if err != nil {
			s.log.Error("resume log", "container", c.id, "error", err)
		} else {
			c.log = log
		}
	}
	for _, st := range entry.Streams {
		c.streams = append(c.streams, &stream{
			c: c, kind: logfile.Stream(st.Kind), tty: st.TTY, fd: st.FD, seen: st.Seen, partial: st.Partial,
		})
		if st.FD >= 0 {
			c.open++
		}
	}
	close(c.started)
	s.mu.Lock()
	s.containers[c.id] = c
	s.mu.Unlock()
	if rec.Frozen {
		go c.thawLeft()
	}
	for _, a := range entry.Attached {
		c.resumeClient(a)
	}
	if err := c.resumeWatches(entry.Execs); err != nil {
		s.log.Error("resume container", "container", c.id, "error", err)
	}
}

// resumeWatches goes on after a failure: what cannot be watched must not cost the exit of
// another process.
func (c *container) resumeWatches(execs []handoverExec) error {
	var errs []error
	for _, st := range c.outputs() {
		errs = append(errs, st.watch())
	}
	for _, x := range execs {
		e := &execProcess{
			id: x.ID, c: c, pid: x.Pid, startedAt: x.StartedAt, pidfd: x.Pidfd, result: x.Result, cgroup: x.Cgroup,
		}
		if err := e.watch(); err != nil {
			errs = append(errs, err)
			closeFDs(e.pidfd, e.result) // its client sees the end
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase == running && c.pidfd >= 0 {
		errs = append(errs, c.watch())
	}
	return errors.Join(errs...)
}

// resumeClient takes up a client of a container's streams.
func (c *container) resumeClient(h handoverClient) {
	file := func(fd int, name string) *os.File {
		if fd < 0 {
			return nil
		}
		return pollable(fd, name)
	}
	a := &attachment{c: c, wake: make(chan struct{}, 1), input: h.Input, ending: h.Ending}
	a.stdin = file(h.Stdin, "stdin")
	a.out[logfile.Stdout] = file(h.Stdout, "stdout")
	a.out[logfile.Stderr] = file(h.Stderr, "stderr")
	a.done = file(h.Done, "done")
	for _, p := range h.Queue {
		a.queue = append(a.queue, piece{logfile.Stream(p.Stream), p.Data})
		a.queued += len(p.Data)
	}
	c.admit(a)
	a.carry()
	a.kick()
}
