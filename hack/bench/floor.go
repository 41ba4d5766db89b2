package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sync/errgroup"
)

// floorAtATime is how many layers the floor unpacks side by side.
const floorAtATime = 2

// measureFloor takes what the machine needs to unpack the layers without a runtime, a
// registry or a digest: igzip -d | tar -x, two at a time. The layers have no whiteouts,
// so each goes into a directory of its own below dir, as a runtime does it. They stay
// for the caller to remove.
func measureFloor(ctx context.Context, c pullCase, dir string, report *report) error {
	dir, err := os.MkdirTemp(dir, "")
	if err != nil {
		return err
	}
	if err := warmMemory(); err != nil {
		return err
	}
	busy, began := cpuBusy(), time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(floorAtATime)
	for i, part := range c.parts {
		target := fmt.Sprintf("%s/%d", dir, i)
		group.Go(func() error { return igzipTar(ctx, part, target) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	report.addFloor(wallOf(c), ms(time.Since(began)))
	report.addFloor(cpuOf(c), ms(cpuBusy()-busy))
	return nil
}

func igzipTar(ctx context.Context, archive, target string) error {
	if err := os.Mkdir(target, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "sh", "-c", `igzip -d -c "$1" | tar -x -p --numeric-owner -C "$2"`, "sh", archive, target)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("igzip -d %s | tar -x: %w: %s", archive, err, out)
	}
	return nil
}
