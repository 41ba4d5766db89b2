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
	watch, done, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("attach to container %q: %w", r.ContainerID, err)
	}
	defer done.Close()
	fds, release, err := descriptors(r.Stdin, r.Stdout, r.Stderr, done)
	if err != nil {
		watch.Close()
		return nil, fmt.Errorf("attach to container %q: %w", r.ContainerID, err)
	}
	defer release()
	frame, err := c.do(ctx, protocol.MethodAttach, protocol.Attach{
		ContainerID: r.ContainerID,
		Stdin:       r.Stdin != nil, Stdout: r.Stdout != nil, Stderr: r.Stderr != nil,
	}, fds, nil)
	if err != nil {
		watch.Close()
		return nil, err
	}
	frame.CloseFDs()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer watch.Close()
		_, _ = watch.Read(make([]byte, 1))
	}()
	return ended, nil
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
