package monitor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// dialOrStart connects to the monitor and starts one if none listens.
func (c *Client) dialOrStart(ctx context.Context) (*protocol.Conn, error) {
	conn, err := protocol.Dial(c.options.Dir)
	if err == nil {
		return conn, nil
	}
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	if err := c.launch(ctx); err != nil {
		return nil, fmt.Errorf("start monitor: %w", err)
	}
	return protocol.Dial(c.options.Dir)
}

// launch starts the program and waits until it listens. The process started
// here ends at once and leaves the monitor as nobody's child.
func (c *Client) launch(ctx context.Context) error {
	ready, end, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	args := []string{"serve", c.options.Dir}
	if c.options.CgroupParent != "" {
		args = append(args, c.options.CgroupParent)
	}
	cmd := exec.Command(c.options.Binary, args...)
	cmd.Dir = "/"
	// Nothing of the daemon's environment is for containers' parents.
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.ExtraFiles = []*os.File{end}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	end.Close()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	const longest = 4 << 10
	text, readErr := io.ReadAll(io.LimitReader(ready, longest))
	if readErr != nil {
		// It is ours and it hangs.
		_ = cmd.Process.Kill()
	}
	_ = cmd.Wait()
	switch {
	case errors.Is(readErr, os.ErrDeadlineExceeded):
		return ctx.Err()
	case readErr != nil:
		return readErr
	case string(text) == "ok":
		return nil
	case len(text) == 0:
		return fmt.Errorf("it ended without a word, see %s in %s", protocol.LogName, c.options.Dir)
	}
	return errors.New(string(text))
}
