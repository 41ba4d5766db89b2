// Package podfiles makes the files that the containers of a pod share: its
// resolv.conf, its hostname and its /dev/shm.
package podfiles

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	resolvConf = "resolv.conf"
	hostname   = "hostname"
	shm        = "shm"

	// shmOptions are those of every runtime's /dev/shm: 64 MiB, for everyone,
	// with the sticky bit. Its owner is the pod's root.
	shmOptions = "mode=1777,size=67108864,uid=%d,gid=%d"
	shmFlags   = unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV
)

// Paths are where the files of a pod are.
type Paths struct {
	ResolvConf, Hostname, Shm string
}

// In returns the paths of the files of a pod in its directory.
func In(dir string) Paths {
	return Paths{
		ResolvConf: filepath.Join(dir, resolvConf),
		Hostname:   filepath.Join(dir, hostname),
		Shm:        filepath.Join(dir, shm),
	}
}

// Content is what a pod's files say.
type Content struct {
	ResolvConf []byte
	Hostname   []byte
	// Shm asks for a tmpfs of the pod's own; a pod in the node's IPC namespace
	// has the node's.
	Shm bool
	// Owner is to whom it all belongs, the root of the pod's user namespace.
	Owner Owner
	// Label is the SELinux label of it all; "" leaves that to the kernel.
	Label string
}

// Owner is a user and a group of the node.
type Owner struct {
	UID, GID uint32
}

// Mounter mounts what a pod's directory needs. Tests without privileges give
// their own.
type Mounter interface {
	MountTmpfs(path string, owner Owner, label string) error
	Unmount(path string) error
}

// Write makes the files in dir, which exists. After an error Remove cleans up.
func Write(dir string, content Content, mounter Mounter) error {
	paths := In(dir)
	for path, data := range map[string][]byte{paths.ResolvConf: content.ResolvConf, paths.Hostname: content.Hostname} {
		// 0644 as in any image: containers read them as any user.
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return fmt.Errorf("write the pod's %s: %w", filepath.Base(path), err)
		}
		// The daemon's umask is not the pod's business.
		if err := os.Chmod(path, 0o644); err != nil {
			return fmt.Errorf("write the pod's %s: %w", filepath.Base(path), err)
		}
		if err := giveTo(content.Owner, path); err != nil {
			return fmt.Errorf("write the pod's %s: %w", filepath.Base(path), err)
		}
		if err := setLabel(path, content.Label); err != nil {
			return fmt.Errorf("label the pod's %s: %w", filepath.Base(path), err)
		}
	}
	if !content.Shm {
		return nil
	}
	if err := os.Mkdir(paths.Shm, 0o700); err != nil {
		return fmt.Errorf("make the pod's shm directory: %w", err)
	}
	if err := mounter.MountTmpfs(paths.Shm, content.Owner, content.Label); err != nil {
		return fmt.Errorf("mount the pod's shm: %w", err)
	}
	return nil
}

// giveTo changes nothing for a pod whose root is the node's.
func giveTo(owner Owner, path string) error {
	if owner == (Owner{}) {
		return nil
	}
	return os.Lchown(path, int(owner.UID), int(owner.GID))
}

// setLabel changes nothing without a label. A file system that keeps none shows them
// all as the policy says, and is no error.
func setLabel(path, label string) error {
	if label == "" {
		return nil
	}
	if err := unix.Lsetxattr(path, "security.selinux", []byte(label), 0); err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return nil
}

// Remove unmounts and removes what Write made, whole or in part, and dir itself
// with nothing else in it; idempotent. It never removes recursively: what is in
// a mount is not ours.
func Remove(dir string, mounter Mounter) error {
	paths := In(dir)
	var errs []error
	if _, err := os.Lstat(paths.Shm); err == nil {
		errs = append(errs, mounter.Unmount(paths.Shm))
	}
	for _, path := range []string{paths.Shm, paths.ResolvConf, paths.Hostname, dir} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the pod's files: %w", err)
	}
	return nil
}

// Kernel mounts for real, which needs CAP_SYS_ADMIN.
type Kernel struct{}

var _ Mounter = Kernel{}

// MountTmpfs mounts a pod's shm; all in it shows the label, unless that is empty.
func (Kernel) MountTmpfs(path string, owner Owner, label string) error {
	options := fmt.Sprintf(shmOptions, owner.UID, owner.GID)
	if label != "" {
		options += `,context="` + label + `"` // its categories are separated by commas
	}
	return unix.Mount("shm", path, "tmpfs", shmFlags, options)
}

// Unmount takes everything off path; nothing mounted there is no error. A mount
// that is still in use goes when its last user does.
func (Kernel) Unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		default:
			return fmt.Errorf("unmount %q: %w", path, err)
		}
	}
}
