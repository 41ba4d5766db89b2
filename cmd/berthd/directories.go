package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/cmd/berthd/internal/pidlock"
	"github.com/berth-cri/berth/config"
)

// takeDirectories makes the root and the state directory, checks that they can
// be used, and locks both: two daemons that share only one of them would
// destroy each other's work just as well. The locks end with the process.
func takeDirectories(cfg config.Config) (release func(), err error) {
	var locks []*pidlock.Lock
	release = func() {
		for _, l := range locks {
			l.Release()
		}
	}
	for _, dir := range []struct{ name, path string }{{"state", cfg.State}, {"root", cfg.Root}} {
		lock, err := takeDirectory(dir.path)
		if err != nil {
			release()
			return nil, fmt.Errorf("%s directory: %w", dir.name, err)
		}
		locks = append(locks, lock)
	}
	return release, nil
}

func takeDirectory(path string) (*pidlock.Lock, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Access(path, unix.R_OK|unix.W_OK|unix.X_OK); err != nil {
		return nil, fmt.Errorf("use %q: %w", path, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("use %q: others than its owner can write to it (mode %#o)", path, info.Mode().Perm())
	}
	return pidlock.Acquire(path)
}
