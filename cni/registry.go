package cni

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// DefaultRegistryDir is the Options.RegistryDir of a daemon. It is on a tmpfs: after a reboot
// no instance has attachments.
const DefaultRegistryDir = "/run/berth-cni"

// DefaultPeerCacheDir is where libcni caches attachments unless told otherwise. containerd and
// CRI-O leave it at that.
const DefaultPeerCacheDir = "/var/lib/cni"

// lockRetry is the pause between attempts to take a lock that garbage collection holds.
const lockRetry = 5 * time.Millisecond

// registry is how the instances of Berth on a host know of each other.
//
// A CNI GC names the attachments of a network that are to live; plugins remove all others.
// Instances with directories of their own can share a network, and so can another runtime. So
// each instance links its debts into a common directory, and a GC counts the debts of all of
// them. An instance adds a pod under a shared lock of the network and collects under an
// exclusive one, so that no pod is added while one counts.
type registry struct {
	dir      string
	debtsDir string
	// peerCache is where other runtimes cache what they attached. They have no part in the
	// locks, so a network of theirs is never collected.
	peerCache string
}

func newRegistry(opts Options) registry {
	r := registry{
		dir:       opts.RegistryDir,
		debtsDir:  filepath.Join(opts.StateDir, "debts"),
		peerCache: filepath.Join(opts.PeerCacheDir, "results"),
	}
	if opts.RegistryDir == "" {
		r.dir = DefaultRegistryDir
	}
	if opts.PeerCacheDir == "" {
		r.peerCache = filepath.Join(DefaultPeerCacheDir, "results")
	}
	return r
}

// join links this instance's debts into the registry. It is idempotent.
func (r registry) join() error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("register with the host's other networks: %w", err)
	}
	target, err := filepath.Abs(r.debtsDir)
	if err != nil {
		return fmt.Errorf("register with the host's other networks: %w", err)
	}
	if err := os.MkdirAll(target, 0o700); err != nil {
		return fmt.Errorf("register with the host's other networks: %w", err)
	}
	sum := sha256.Sum256([]byte(target))
	link := filepath.Join(r.dir, hex.EncodeToString(sum[:8])+".debts")
	if err := os.Symlink(target, link); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("register with the host's other networks: %w", err)
	}
	return nil
}

// enter keeps garbage collection of a network out until leave is called.
func (r registry) enter(ctx context.Context, network string) (leave func(), err error) {
	for {
		leave, err = r.lock(network, unix.LOCK_SH)
		if !errdefs.IsUnavailable(err) {
			return leave, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for garbage collection of network %q: %w", network, ctx.Err())
		case <-time.After(lockRetry):
		}
	}
}

// lock takes the lock of a network, or ErrUnavailable at once.
func (r registry) lock(network string, how int) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(r.dir, network+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock network %q: %w", network, err)
	}
	err = unix.Flock(int(file.Fd()), how|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		_ = file.Close()
		return nil, fmt.Errorf("network %q is locked: %w", network, errdefs.ErrUnavailable)
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("lock network %q: %w", network, err)
	}
	return func() { _ = file.Close() }, nil
}

// attachments returns the debts of every instance for a network. The caller has its
// exclusive lock. An instance whose directory was deleted has none, and is forgotten.
func (r registry) attachments(network string) ([]*debt, error) {
	links, err := filepath.Glob(filepath.Join(r.dir, "*.debts"))
	if err != nil {
		return nil, err
	}
	var attached []*debt
	for _, link := range links {
		dir, err := os.Readlink(link)
		if err != nil {
			return nil, fmt.Errorf("read debts of another instance: %w", err)
		}
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(link)
			continue
		}
		debts, err := readDebts(dir)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		for _, d := range debts {
			if d.Network == network {
				attached = append(attached, d)
			}
		}
	}
	return attached, nil
}

// hasPeer tells whether another runtime has, or once had, pods on a network.
func (r registry) hasPeer(network string) (bool, error) {
	entries, err := os.ReadDir(r.peerCache)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for other runtimes on network %q: %w", network, err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), network+"-") {
			return true, nil
		}
	}
	return false, nil
}
