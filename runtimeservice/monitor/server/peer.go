package server

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// peer is a connection and the requests of it that are being answered.
type peer struct {
	s    *Server
	conn *protocol.Conn
	gone chan struct{}
	// requests counts those under way.
	requests sync.WaitGroup
	// lastID is that of the latest request taken; for the goroutine that
	// receives, and for others once received is closed.
	lastID   uint64
	received chan struct{}
}

// serve answers a connection in goroutines of its own.
func (s *Server) serve(conn *protocol.Conn) {
	p := &peer{s: s, conn: conn, gone: make(chan struct{}), received: make(chan struct{})}
	s.mu.Lock()
	s.conns[p] = struct{}{}
	s.mu.Unlock()
	go p.receive()
}

func (p *peer) receive() {
	defer close(p.received)
	for {
		frame, err := p.conn.Receive()
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return // stopped for an upgrade
			}
			if !errors.Is(err, io.EOF) {
				p.s.log.Warn("receive request", "error", err)
			}
			p.end()
			return
		}
		if frame.Kind != protocol.FrameRequest {
			frame.CloseFDs()
			continue
		}
		p.lastID = frame.ID
		p.requests.Add(1)
		go p.answer(frame)
	}
}

func (p *peer) end() {
	p.forget()
	p.conn.Close()
}

func (p *peer) forget() {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	if _, known := p.s.conns[p]; !known {
		return
	}
	delete(p.s.conns, p)
	if p.s.owner == p.conn {
		p.s.owner = nil
	}
	close(p.gone)
}

// answer handles one request. A panic in there is the error of this request: the
// process that would die of it is the parent of every container.
func (p *peer) answer(frame *protocol.Frame) {
	defer p.requests.Done()
	defer frame.CloseFDs()
	defer p.s.trimmer.worked()
	a, err := p.guarded(frame)
	reply := protocol.Frame{Kind: protocol.FrameResponse, Method: frame.Method, ID: frame.ID, FDs: a.fds}
	if err != nil {
		reply.Kind = protocol.FrameError
		a.body = protocol.EncodeError(err)
	}
	if a.body == nil {
		a.body = struct{}{}
	}
	err = p.conn.SendJSON(reply, a.body)
	closeFDs(a.fds...)
	if a.sent != nil {
		a.sent()
	}
	if err != nil {
		p.s.log.Debug("send answer", "error", err)
	}
}

func (p *peer) guarded(frame *protocol.Frame) (a answer, err error) {
	defer func() {
		if r := recover(); r != nil {
			p.s.log.Error("panic in request", "method", frame.Method, "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic in monitor: %v", r)
		}
	}()
	return p.handle(frame)
}

// answer is what a request is answered with: a body, descriptors, which are
// closed afterwards, and what to do when it has been sent.
type answer struct {
	body any
	fds  []int
	sent func()
}

// decode reads the body of a request, calls f with it and wraps up.
func decode[T any](frame *protocol.Frame, f func(*T) (answer, error)) (answer, error) {
	var body T
	if err := frame.Decode(&body); err != nil {
		return answer{}, err
	}
	return f(&body)
}

// plain is for methods that answer nothing but an error.
func plain[T any](frame *protocol.Frame, f func(*T) error) (answer, error) {
	return decode(frame, func(body *T) (answer, error) { return answer{}, f(body) })
}

func named(f func(string) error) func(*protocol.Named) error {
	return func(n *protocol.Named) error { return f(n.ID) }
}

func (p *peer) handle(frame *protocol.Frame) (answer, error) {
	s := p.s
	switch frame.Method {
	case protocol.MethodHello:
		return decode(frame, p.hello)
	case protocol.MethodInfo:
		return answer{body: s.info()}, nil
	case protocol.MethodUpgrade:
		return decode(frame, p.upgrade)
	case protocol.MethodList:
		return answer{body: s.containersInfo()}, nil
	case protocol.MethodFetch:
		return decode(frame, p.fetch)
	case protocol.MethodAdopt:
		return decode(frame, func(a *protocol.Adopt) (answer, error) { return answer{}, s.adopt(a, frame) })
	case protocol.MethodAck:
		return plain(frame, named(s.ack))
	case protocol.MethodStart:
		return decode(frame, func(r *protocol.Start) (answer, error) { return p.start(r, frame) })
	case protocol.MethodStartPodInit:
		return decode(frame, p.startPodInit)
	case protocol.MethodSignal:
		return plain(frame, s.signal)
	case protocol.MethodUpdate:
		return plain(frame, s.update)
	case protocol.MethodDelete:
		return plain(frame, named(s.remove))
	case protocol.MethodReopenLog:
		return plain(frame, named(s.reopenLog))
	case protocol.MethodExec:
		return decode(frame, func(e *protocol.Exec) (answer, error) { return p.exec(e, frame) })
	case protocol.MethodKillExec:
		return plain(frame, s.killExec)
	case protocol.MethodAttach:
		return decode(frame, func(a *protocol.Attach) (answer, error) { return p.attach(a, frame) })
	case protocol.MethodResize:
		return plain(frame, s.resize)
	case protocol.MethodFreeze:
		return plain(frame, func(f *protocol.Freeze) error { return s.freeze(f, p.gone) })
	case protocol.MethodDump:
		return plain(frame, s.dump)
	case protocol.MethodThaw:
		return plain(frame, s.thaw)
	}
	return answer{}, fmt.Errorf("method %d: %w", frame.Method, errdefs.ErrNotImplemented)
}

func (p *peer) hello(h *protocol.Hello) (answer, error) {
	info := p.s.info()
	if h.Version != protocol.Version {
		// The client sees the version in the answer and upgrades us.
		return answer{body: info}, nil
	}
	if !h.Own {
		return answer{body: info}, nil
	}
	return answer{body: info, sent: p.own}, nil
}

// own makes this the connection that exits are told to.
func (p *peer) own() {
	p.s.mu.Lock()
	old := p.s.owner
	p.s.owner = p.conn
	p.s.mu.Unlock()
	if old != nil && old != p.conn {
		old.Close()
	}
	p.s.settle()
	p.s.tellClosedInputs(p.conn)
	go p.s.tellExits(p.conn, p.s.exits.subscribe(), p.gone)
}

func (s *Server) containersInfo() protocol.List {
	var l protocol.List
	for _, c := range s.list() {
		if e := c.entry(); e.Pid != 0 {
			l.Containers = append(l.Containers, e)
		}
	}
	return l
}

func (p *peer) fetch(n *protocol.Named) (answer, error) {
	c := p.s.get(n.ID)
	if c == nil {
		return answer{}, fmt.Errorf("container %q: %w", n.ID, errdefs.ErrNotFound)
	}
	// A client that has to ask has nothing to give back.
	if err := c.reclaim(); err != nil {
		p.s.log.Error("fetch container", "error", err)
	}
	started, fds := c.describe()
	return answer{body: started, fds: fds}, nil
}

func (p *peer) start(req *protocol.Start, frame *protocol.Frame) (answer, error) {
	want := 0
	for _, a := range req.Attach {
		want += a.Count()
	}
	if len(frame.FDs) != want {
		return answer{}, fmt.Errorf("%d descriptors in place of %d: %w", len(frame.FDs), want, errdefs.ErrInvalidArgument)
	}
	clients := newAttachments(req.Attach, frame.FDs)
	frame.FDs = nil
	c, err := p.s.start(req, clients)
	return p.started(c, err)
}

func (p *peer) startPodInit(req *protocol.StartPodInit) (answer, error) {
	c, err := p.s.startPodInit(req)
	return p.started(c, err)
}

func (p *peer) started(c *container, err error) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	started, fds := c.describe()
	return answer{body: started, fds: fds, sent: func() { p.s.announce(c) }}, nil
}

// takeFDs checks that as many descriptors came as the flags say, one more for a
// last one, and takes them over.
func takeFDs(frame *protocol.Frame, flags ...bool) ([]int, error) {
	want := 1
	for _, f := range flags {
		if f {
			want++
		}
	}
	if len(frame.FDs) != want {
		return nil, fmt.Errorf("%d descriptors in place of %d: %w", len(frame.FDs), want, errdefs.ErrInvalidArgument)
	}
	fds := frame.FDs
	frame.FDs = nil
	return fds, nil
}

func (p *peer) exec(req *protocol.Exec, frame *protocol.Frame) (answer, error) {
	flags := []bool{req.Stdin, req.Stdout, req.Stderr}
	fds, err := takeFDs(frame, flags...)
	if err != nil {
		return answer{}, err
	}
	var stdio [3]*os.File
	for i, present := range flags {
		if present {
			// What os.Pipe made is non-blocking, which a process does not expect.
			if err := unix.SetNonblock(fds[0], false); err != nil {
				closeFDs(fds...)
				closeStdio(stdio)
				return answer{}, os.NewSyscallError("fcntl", err)
			}
			stdio[i] = os.NewFile(uintptr(fds[0]), "stdio")
			fds = fds[1:]
		}
	}
	// Whoever reads the result may be gone for good or stopped.
	_ = unix.SetNonblock(fds[0], true)
	execed, sent, err := p.s.exec(req, stdio, fds[0])
	return answer{body: execed, fds: sent}, err
}

func (p *peer) attach(req *protocol.Attach, frame *protocol.Frame) (answer, error) {
	fds, err := takeFDs(frame, req.Stdin, req.Stdout, req.Stderr)
	if err != nil {
		return answer{}, err
	}
	return answer{}, p.s.attach(req, fds)
}
