package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// pullSamples is the number of cold pulls of each image by each runtime.
const pullSamples = 5

// measurePull takes the latency and the CPU of cold pulls, each of an image that was
// never there before. Nothing is removed meanwhile: making files is slow where many were
// just removed.
func measurePull(ctx context.Context, registry *imageRegistry, opts options, tree string, targets []*target, report *report) error {
	name, dir, ok := strings.Cut(tree, "=")
	if !ok {
		return fmt.Errorf("tree %q: want NAME=DIR", tree)
	}
	cases, err := pullCases(registry, name, dir)
	if err != nil {
		return fmt.Errorf("pack tree %s: %w", dir, err)
	}
	floors, err := os.MkdirTemp("", "bench-floor-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(floors)
	var pulled []string
	for i, c := range cases {
		if !strings.Contains(c.name, opts.pulls) {
			continue
		}
		refs, err := registry.addMarked(fmt.Sprintf("bench/%s-%d", name, i), c.parts, pullSamples)
		if err != nil {
			return err
		}
		awaitQuiet()
		for _, ref := range refs {
			for _, t := range targets {
				if err := pullOnce(ctx, t, c, ref, report); err != nil {
					return err
				}
			}
			if err := measureFloor(ctx, c, floors, report); err != nil {
				return err
			}
			awaitQuiet()
		}
		pulled = append(pulled, refs...)
	}
	return removeAll(ctx, targets, pulled)
}

func removeAll(ctx context.Context, targets []*target, refs []string) error {
	for _, t := range targets {
		for _, ref := range refs {
			if err := t.removeImage(ctx, ref); err != nil {
				return fmt.Errorf("%s: remove %s: %w", t.name, ref, err)
			}
		}
	}
	return nil
}

// pullOnce leaves a quiet machine: what a runtime does once the pull has returned is
// not for the next measurement to bear.
func pullOnce(ctx context.Context, t *target, c pullCase, ref string, report *report) error {
	if err := warmMemory(); err != nil {
		return err
	}
	busy, began := cpuBusy(), time.Now()
	if _, err := t.pull(ctx, ref); err != nil {
		return fmt.Errorf("%s: pull %s: %w", t.name, ref, err)
	}
	report.add(wallOf(c), milliseconds, t, ms(time.Since(began)))
	report.add(cpuOf(c), milliseconds, t, ms(cpuBusy()-busy))
	awaitQuiet()
	report.add(cpuInAllOf(c), milliseconds, t, ms(cpuBusy()-busy))
	return nil
}

// The names of a case's figures.
func wallOf(c pullCase) string { return "cold pull of " + c.name }
func cpuOf(c pullCase) string  { return "CPU per pull of " + c.name }

// cpuInAllOf is with what is done after the pull has returned.
func cpuInAllOf(c pullCase) string { return "– " + cpuOf(c) + ", and after it" }
