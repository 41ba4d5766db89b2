package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
)

// freezer is the file that stops and resumes a cgroup, and what is written there; the
// kernel tells in another one, or by another word, when all processes stand still.
type freezer struct {
	control        string
	freeze, thaw   string
	state          string
	frozen, thawed string
}

// freezerOf finds the freezer of a container's cgroups. Where there are hierarchies of both
// versions it is that of v1, as CRIU is told by libcontainer: it thaws and freezes too.
func freezerOf(paths map[string]string) (freezer, error) {
	if dir := paths["freezer"]; dir != "" {
		file := filepath.Join(dir, "freezer.state")
		return freezer{control: file, freeze: "FROZEN", thaw: "THAWED", state: file, frozen: "FROZEN", thawed: "THAWED"}, nil
	}
	if dir := paths[""]; dir != "" {
		return freezer{
			control: filepath.Join(dir, "cgroup.freeze"), freeze: "1", thaw: "0",
			state: filepath.Join(dir, "cgroup.events"), frozen: "frozen 1", thawed: "frozen 0",
		}, nil
	}
	return freezer{}, fmt.Errorf("its cgroup cannot be frozen: %w", errdefs.ErrFailedPrecondition)
}

// isFrozen reports whether somebody has frozen it.
func (f freezer) isFrozen() (bool, error) {
	data, err := os.ReadFile(f.control)
	if err != nil {
		return false, fmt.Errorf("read freezer: %w", err)
	}
	return string(bytes.TrimSpace(data)) != f.thaw, nil
}

// write asks for a state; a cgroup that is gone has none.
func (f freezer) write(what string) error {
	err := os.WriteFile(f.control, []byte(what), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write %q to freezer: %w", what, err)
	}
	return nil
}

// freezeInterval is how often a cgroup that is to stand still is looked at.
const freezeInterval = time.Millisecond

// waitFrozen returns when all processes stand still. They go on for an instant now and then:
// the v1 freezer gets stuck if it stops a thread that another, in execve, waits for.
func (f freezer) waitFrozen(ctx context.Context) error {
	for tries := 0; ; tries++ {
		data, err := os.ReadFile(f.state)
		if err != nil {
			return fmt.Errorf("read freezer: %w", err)
		}
		if bytes.Contains(data, []byte(f.frozen)) {
			return nil
		}
		if tries%32 == 31 {
			if err := errors.Join(f.write(f.thaw), f.write(f.freeze)); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes do not stand still: %w", context.Cause(ctx))
		case <-time.After(freezeInterval):
		}
	}
}
