package fakecri

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// Process is what a program sees.
type Process struct {
	Args     []string
	In       io.Reader // at its end if nobody gives input
	Out, Err io.Writer
	TTY      bool
	Resize   <-chan remotecommand.TerminalSize
	// Stop is closed when the process is asked to end. One that does not end
	// is killed: it is no longer waited for.
	Stop <-chan struct{}
}

const killedCode = 137

type container struct {
	status *runtimeapi.ContainerStatus // guarded by Server.mu
	podID  string
	config *runtimeapi.ContainerConfig

	input    *io.PipeReader
	feed     *io.PipeWriter
	output   *output
	resize   chan remotecommand.TerminalSize
	promised atomic.Int32 // attach URLs handed out and not connected yet
	stopOnce sync.Once
	stopped  chan struct{}
	killOnce sync.Once
	killed   chan struct{}
	ended    chan struct{}
}

func newContainer(podID string, config *runtimeapi.ContainerConfig, st *runtimeapi.ContainerStatus) *container {
	c := &container{
		status: st, podID: podID, config: config, output: &output{},
		resize:  make(chan remotecommand.TerminalSize, 16),
		stopped: make(chan struct{}), killed: make(chan struct{}), ended: make(chan struct{}),
	}
	c.input, c.feed = io.Pipe()
	if !config.Stdin {
		c.feed.Close()
	}
	return c
}

// start runs the program; s.mu is held.
func (s *Server) start(c *container) error {
	if c.status.LogPath != "" {
		f, err := os.Create(c.status.LogPath)
		if err != nil {
			return err
		}
		c.output.log = f
	}
	c.status.State = runtimeapi.ContainerState_CONTAINER_RUNNING
	c.status.StartedAt = time.Now().UnixNano()
	s.emit(c.event(runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT))
	p := &Process{
		Args: append(append([]string{}, c.config.Command...), c.config.Args...),
		In:   c.input, Out: c.output.stream("stdout"), Err: c.output.stream("stderr"),
		TTY: c.config.Tty, Resize: c.resize, Stop: c.stopped,
	}
	if p.TTY {
		p.Err = p.Out
	}
	code := make(chan int, 1)
	go func() { code <- s.options.Program(p) }()
	go func() {
		select {
		case n := <-code:
			s.end(c, n)
		case <-c.killed:
			s.end(c, killedCode)
		}
	}()
	return nil
}

func (s *Server) end(c *container, code int) {
	c.output.close()
	c.input.Close()
	s.mu.Lock()
	c.status.State = runtimeapi.ContainerState_CONTAINER_EXITED
	c.status.ExitCode = int32(code)
	c.status.FinishedAt = time.Now().UnixNano()
	c.status.Reason = "Completed"
	if code != 0 {
		c.status.Reason = "Error"
	}
	s.emit(c.event(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT))
	s.mu.Unlock()
	close(c.ended)
}

func (c *container) event(kind runtimeapi.ContainerEventType) *runtimeapi.ContainerEventResponse {
	return &runtimeapi.ContainerEventResponse{ContainerId: c.status.Id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano()}
}

// stop asks a running container to end and kills it after the timeout.
func (c *container) stop(timeout time.Duration) {
	if c.stopped == nil || c.status.GetStartedAt() == 0 {
		return
	}
	c.stopOnce.Do(func() { close(c.stopped) })
	select {
	case <-c.ended:
		return
	case <-c.killed:
	case <-time.After(timeout):
		c.killOnce.Do(func() { close(c.killed) })
	}
	<-c.ended
}

func (s *Server) killPod(id string) {
	s.mu.Lock()
	var list []*container
	for _, c := range s.containers {
		if c.podID == id {
			list = append(list, c)
		}
	}
	s.mu.Unlock()
	for _, c := range list {
		c.stop(0)
	}
}

func (s *Server) killAll() {
	s.mu.Lock()
	var ids []string
	for id := range s.pods {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	for _, id := range ids {
		s.killPod(id)
	}
}

// output copies what a container writes to its log and to who is attached.
type output struct {
	mu       sync.Mutex
	log      *os.File
	attached []attachment
}

type attachment struct{ out, err io.Writer }

func (o *output) attach(out, errw io.Writer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.attached = append(o.attached, attachment{out, errw})
}

func (o *output) stream(name string) io.Writer { return &outputStream{o, name} }

type outputStream struct {
	*output
	name string
}

func (o *outputStream) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.log != nil {
		for _, line := range bytes.SplitAfter(p, []byte("\n")) {
			if len(line) == 0 {
				continue
			}
			tag := "F"
			if !bytes.HasSuffix(line, []byte("\n")) {
				tag = "P"
			}
			fmt.Fprintf(o.log, "%s %s %s %s\n", time.Now().Format(time.RFC3339Nano), o.name, tag, bytes.TrimSuffix(line, []byte("\n")))
		}
	}
	for _, a := range o.attached {
		w := a.out
		if o.name == "stderr" {
			w = a.err
		}
		if w != nil {
			_, _ = w.Write(p)
		}
	}
	return len(p), nil
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.log != nil {
		o.log.Close()
		o.log = nil
	}
}
