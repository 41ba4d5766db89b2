package monitor

import (
	"context"
	"fmt"
	"os"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// Attach connects the given ends to the streams of a running container: output
// is copied from now on, input forwarded until its end. A client that reads too
// slowly is cut off: its ends are closed. The channel is closed when the session
// has ended for that or any other reason; close Stdin's other end to leave.
func (c *Client) Attach(ctx context.Context, r AttachRequest) (<-chan struct{}, error) {
	clients, err := openClients([]AttachRequest{r})
	if err != nil {
		return nil, fmt.Errorf("attach to container %q: %w", r.ContainerID, err)
	}
	defer clients.release()
	frame, err := c.do(ctx, protocol.MethodAttach, clients.bodies[0], clients.fds, nil)
	if err != nil {
		return nil, err
	}
	frame.CloseFDs()
	return clients.watch()[0], nil
}

// clients are attach requests on their way to the monitor.
type clients struct {
	bodies []protocol.Attach
	fds    []int
	// ends tell the end of each session; the monitor holds the other side.
	ends    []*os.File
	release func()
}

// openClients makes what is sent for the requests. It is valid until release,
// which the caller calls when the request has been made.
func openClients(reqs []AttachRequest) (*clients, error) {
	c := &clients{}
	var sent []func()
	c.release = func() {
		for _, f := range sent {
			f()
		}
		closeFiles(c.ends)
	}
	for _, r := range reqs {
		watch, done, err := os.Pipe()
		if err != nil {
			c.release()
			return nil, err
		}
		c.ends = append(c.ends, watch)
		sent = append(sent, func() { done.Close() })
		fds, release, err := descriptors(r.Stdin, r.Stdout, r.Stderr, done)
		if err != nil {
			c.release()
			return nil, err
		}
		sent = append([]func(){release}, sent...)
		c.fds = append(c.fds, fds...)
		c.bodies = append(c.bodies, protocol.Attach{
			ContainerID: r.ContainerID,
			Stdin:       r.Stdin != nil, Stdout: r.Stdout != nil, Stderr: r.Stderr != nil,
		})
	}
	return c, nil
}

// watch returns channels that are closed when the sessions have ended.
func (c *clients) watch() []<-chan struct{} {
	ends := c.ends
	c.ends = nil // not release's to close any more
	all := make([]<-chan struct{}, len(ends))
	for i, end := range ends {
		ended := make(chan struct{})
		all[i] = ended
		go func() {
			defer close(ended)
			defer end.Close()
			_, _ = end.Read(make([]byte, 1))
		}()
	}
	return all
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// descriptors returns those of the files that are not nil. They are valid until
// release is called; the mode of the files, blocking or not, is not changed.
func descriptors(files ...*os.File) (fds []int, release func(), err error) {
	var held []chan struct{}
	release = func() {
		for _, h := range held {
			close(h)
		}
	}
	for _, f := range files {
		if f == nil {
			continue
		}
		fd, h, err := hold(f)
		if err != nil {
			release()
			return nil, nil, err
		}
		fds, held = append(fds, fd), append(held, h)
	}
	return fds, release, nil
}
