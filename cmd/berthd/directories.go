package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/cmd/berthd/internal/pidlock"
	"github.com/berth-cri/berth/config"
)

// takeDirectories makes the root and the state directory, and those that take a part of
// the root's content, checks that they can
// be used, and locks both: two daemons that share only one of them would
// destroy each other's work just as well. The locks end with the process.
func takeDirectories(cfg config.Config) (release func(), err error) {
	var locks []*pidlock.Lock
	taken := map[string]bool{}
	release = func() {
		for _, l := range locks {
			l.Release()
		}
	}
	for _, dir := range []struct {
		name, path string
		mode       os.FileMode
	}{
		// Root file systems are mounted below the state directory. The root of a pod
		// with a user namespace passes it, who is nobody special on the node.
		{"state", cfg.State, 0o711},
		{"root", cfg.Root, 0o700},
		{"images", cfg.Images.Dir, 0o700},
		{"writable layers", cfg.Runtime.WritableDir, 0o700},
	} {
		if taken[dir.path] || dir.path == "" {
			continue
		}
		taken[dir.path] = true
		lock, err := takeDirectory(dir.path, dir.mode)
		if err != nil {
			release()
			return nil, fmt.Errorf("%s directory: %w", dir.name, err)
		}
		locks = append(locks, lock)
	}
	return release, nil
}

// takeDirectory makes a directory, or adds to the mode of one that is there.
func takeDirectory(path string, mode os.FileMode) (*pidlock.Lock, error) {
	if err := os.MkdirAll(path, mode); err != nil {
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
	if missing := mode &^ info.Mode().Perm(); missing != 0 {
		if err := os.Chmod(path, info.Mode().Perm()|mode); err != nil {
			return nil, err
		}
	}
	return pidlock.Acquire(path)
}
