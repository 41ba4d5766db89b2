package namespaces

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Pin keeps the namespace behind from, a path like /proc/PID/ns/pid, alive under dir and
// returns the pin's path. The error is ErrAlreadyExists where dir has a pin of that kind.
func Pin(ctx context.Context, dir string, kind Kind, from string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("create directory of namespaces: %w", err)
	}
	path := filepath.Join(dir, string(kind))
	return path, pin(from, path)
}

func pin(from, path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o400)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("pin namespace: %q: %w", path, errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return fmt.Errorf("pin namespace: %w", err)
	}
	_ = file.Close()
	if err := unix.Mount(from, path, "", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("pin namespace %q at %q: %w", from, path, err), os.Remove(path))
	}
	return nil
}

// Find returns the pins that dir has. A file of that name on which nothing is mounted, as
// an interrupted Create leaves it, is none.
func Find(dir string) Pins {
	pins := make(Pins)
	for _, kind := range kinds {
		path := filepath.Join(dir, string(kind))
		var fs unix.Statfs_t
		if err := unix.Statfs(path, &fs); err == nil && fs.Type == unix.NSFS_MAGIC {
			pins[kind] = path
		}
	}
	return pins
}

// Remove lets the namespaces pinned under dir go, those of an interrupted Create too. The
// kernel frees them once nothing else holds them. Other files of dir, and dir itself, stay.
// It is idempotent.
func Remove(ctx context.Context, dir string) error {
	var errs []error
	for _, kind := range kinds {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		errs = append(errs, removePin(filepath.Join(dir, string(kind))))
	}
	return errors.Join(errs...)
}

func removePin(path string) error {
	// A path can be mounted upon more than once; EINVAL says that nothing is left there.
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err == nil {
			continue
		}
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return nil
		}
		if !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount namespace %q: %w", path, err)
		}
		break
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove namespace: %w", err)
	}
	return nil
}
