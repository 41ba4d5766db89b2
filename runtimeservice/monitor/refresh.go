package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// refreshTime bounds the upgrade of a monitor that runs another program. At that
// time nobody has requests under way that it would have to wait for.
const refreshTime = 20 * time.Second

// refresh has the monitor run the installed program if it runs another one, as it
// does after a package was upgraded. An upgrade that is refused or fails is logged,
// and the client is connected all the same: to the program of before or, if that
// ended half-way, to a new monitor with what this client keeps.
func (c *Client) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, refreshTime)
	defer cancel()
	info, err := c.Info(ctx)
	if err != nil {
		return err
	}
	same, err := sameProgram(fmt.Sprintf("/proc/%d/exe", info.Pid), c.options.Binary)
	if err != nil {
		c.log.Warn("compare monitor with the installed program", "error", err)
		return nil
	}
	if same {
		return nil
	}
	c.log.Info("upgrade monitor", "pid", info.Pid, "version", info.Version, "containers", info.Containers)
	if err := c.Upgrade(ctx); err != nil {
		c.log.Error("upgrade monitor; pods go on", "error", err)
		return c.connect(ctx)
	}
	if info, err = c.Info(ctx); err != nil {
		return err
	}
	c.log.Info("upgraded monitor", "pid", info.Pid, "version", info.Version)
	return nil
}

// sameProgram compares two programs byte by byte: versions can be the same for
// different builds.
func sameProgram(running, installed string) (bool, error) {
	a, err := os.Open(running)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := os.Open(installed)
	if err != nil {
		return false, err
	}
	defer b.Close()
	aInfo, err := a.Stat()
	if err != nil {
		return false, err
	}
	bInfo, err := b.Stat()
	if err != nil {
		return false, err
	}
	if aInfo.Size() != bInfo.Size() {
		return false, nil
	}
	return sameContent(a, b)
}

func sameContent(a, b io.Reader) (bool, error) {
	const chunk = 256 << 10
	bufA, bufB := make([]byte, chunk), make([]byte, chunk)
	for {
		n, errA := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		if !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, nil
		}
		for _, err := range []error{errA, errB} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false, err
			}
		}
		if errA != nil || errB != nil {
			return true, nil
		}
	}
}
