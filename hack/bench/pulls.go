package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// pullSamples is the number of cold pulls of each image by each runtime.
const pullSamples = 5

// measurePull takes the latency and the CPU of cold pulls, each of an image that was
// never there before. Nothing is removed meanwhile: making files is slow where many were
// just removed.
func measurePull(ctx context.Context, registry *imageRegistry, tree string, targets []*target, report *report) error {
	name, dir, ok := strings.Cut(tree, "=")
	if !ok {
		return fmt.Errorf("tree %q: want NAME=DIR", tree)
	}
	refs, err := registry.addTree("bench/"+name, dir, pullSamples)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		for _, t := range targets {
			if err := pullOnce(ctx, t, name, ref, report); err != nil {
				return err
			}
		}
	}
	for _, t := range targets {
		for _, ref := range refs {
			if err := t.removeImage(ctx, ref); err != nil {
				return fmt.Errorf("%s: remove %s: %w", t.name, ref, err)
			}
		}
	}
	return nil
}

func pullOnce(ctx context.Context, t *target, name, ref string, report *report) error {
	// What the last pull wrote is not this one's to wait for.
	flushDisk()
	busy, began := cpuBusy(), time.Now()
	if _, err := t.pull(ctx, ref); err != nil {
		return fmt.Errorf("%s: pull %s: %w", t.name, ref, err)
	}
	report.add("cold pull of "+name, milliseconds, t, ms(time.Since(began)))
	report.add("CPU per pull of "+name, milliseconds, t, ms(cpuBusy()-busy))
	return nil
}
