package cni

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long a directory must be quiet: installers write a file in pieces.
	settle = 100 * time.Millisecond
	// pollInterval is for changes that make no event: on file systems without them, in the
	// directory of a network's further plugins, or with no inotify instance to be had.
	pollInterval = 10 * time.Second
)

// follow reloads the network when its directories change until ctx ends, and tells changed.
func (n *Networks) follow(ctx context.Context, changed chan<- struct{}) {
	var events <-chan fsnotify.Event
	var errs <-chan error
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		n.logger.Warn("network configuration is polled instead of watched", "error", err)
	} else {
		defer watcher.Close()
		events, errs = watcher.Events, watcher.Errors
	}
	poll := time.NewTicker(pollInterval)
	defer poll.Stop()
	var settled <-chan time.Time
	for {
		if settled == nil {
			// Watched before it is read, so that no change falls between.
			n.watch(watcher)
			if n.reload() {
				tell(n.hurry)
				tell(changed)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-events:
			settled = time.After(settle)
			continue
		case err := <-errs:
			n.logger.Warn("watch network configuration", "error", err)
		case <-settled:
		case <-poll.C:
		}
		settled = nil
	}
}

// tell wakes the reader of c, now or when it next looks.
func tell(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// watch adds every directory, or the nearest one above it that exists: its creation is an
// event there. Watching a directory twice is nothing.
func (n *Networks) watch(watcher *fsnotify.Watcher) {
	if watcher == nil {
		return
	}
	wanted := make(map[string]bool)
	for _, dir := range slices.Concat(n.confDirs, n.binDirs) {
		for dir = filepath.Clean(dir); watcher.Add(dir) != nil && dir != filepath.Dir(dir); {
			dir = filepath.Dir(dir)
		}
		wanted[dir] = true
	}
	for _, dir := range watcher.WatchList() {
		if !wanted[dir] {
			_ = watcher.Remove(dir) // an ancestor that is no longer needed
		}
	}
}
