package monitor

import (
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// kept are this client's references to the pidfd and the streams of a
// container. Without them the container would lose its output when the monitor
// is killed.
type kept struct {
	has protocol.FDs
	// fds are in the order of the fields of has.
	fds []int
}

func (k *kept) list() []int { return k.fds }

func (k *kept) close() {
	for _, fd := range k.fds {
		unix.Close(fd)
	}
	k.fds = nil
}

// closeStdin drops the reference to the standard input, which is at an end.
func (k *kept) closeStdin() {
	if !k.has.Stdin {
		return
	}
	i := 0
	if k.has.Pidfd {
		i++
	}
	unix.Close(k.fds[i])
	k.fds = append(k.fds[:i:i], k.fds[i+1:]...)
	k.has.Stdin = false
}

// keep takes the descriptors of a frame that answers a start or a fetch.
func (c *Client) keep(id string, frame *protocol.Frame, started *protocol.Started) error {
	defer frame.CloseFDs()
	if err := frame.Decode(started); err != nil {
		return err
	}
	if len(frame.FDs) != started.FDs.Count() {
		return fmt.Errorf("%d descriptors of container %q in place of %d: %w",
			len(frame.FDs), id, started.FDs.Count(), errdefs.ErrUnavailable)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.kept[id] != nil {
		return nil
	}
	c.kept[id] = &kept{has: started.FDs, fds: frame.FDs}
	frame.FDs = nil
	return nil
}

// forget drops the references to a container that has ended or is deleted.
func (c *Client) forget(id string) {
	c.mu.Lock()
	k := c.kept[id]
	delete(c.kept, id)
	c.mu.Unlock()
	if k != nil {
		k.close()
	}
}

// forgetOthers drops the references to containers that the monitor does not
// know.
func (c *Client) forgetOthers(known map[string]bool) {
	c.mu.Lock()
	var gone []string
	for id := range c.kept {
		if !known[id] {
			gone = append(gone, id)
		}
	}
	c.mu.Unlock()
	for _, id := range gone {
		c.forget(id)
	}
}

func (c *Client) forgetStdin(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.kept[id]; k != nil {
		k.closeStdin()
	}
}
