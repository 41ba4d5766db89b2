package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// mapLower puts ID-mapped views in the place of the lower directories: what belongs to ID n
// there belongs in the overlay to whom the user namespace shows as n. They are mounts that
// are nowhere in the file system, and end with the descriptors and the overlay.
func (h *handles) mapLower(userns int) error {
	for i, fd := range h.lower {
		mapped, err := idMapped(fd, userns)
		if err != nil {
			return fmt.Errorf("map the IDs of layer %d: %w", i, err)
		}
		unix.Close(fd)
		h.lower[i] = mapped
	}
	return nil
}

// OpenMapped opens a directory as Mount.UserNS has the layers of an overlay: its files
// belong to the IDs of the user namespace at that path.
func OpenMapped(dir, userns string) (int, error) {
	ns, err := unix.Open(userns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: userns, Err: err}
	}
	defer unix.Close(ns)
	fd, err := openPath(dir)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	view, err := idMapped(fd, ns)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", dir, err)
	}
	defer unix.Close(view)
	// A view is only a place, whose files can be opened and which cannot be read itself.
	return unix.Openat(view, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

func idMapped(dir, userns int) (int, error) {
	fd, err := unix.OpenTree(dir, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns)})
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("ID-mapped mount, which the file system may not support: %w", os.NewSyscallError("mount_setattr", err))
	}
	return fd, nil
}

// doMapped mounts with ID-mapped lower directories.
func (m Mount) doMapped() error {
	userns, err := unix.Open(m.UserNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: m.UserNS, Err: err}
	}
	defer unix.Close(userns)
	overlay, err := m.createMapped(userns)
	if err != nil {
		return err
	}
	defer unix.Close(overlay)
	return attach(overlay, m.Target)
}

// createMapped returns a descriptor of the overlay, mounted nowhere.
func (m Mount) createMapped(userns int) (int, error) {
	if m.aside {
		return m.createAside(userns)
	}
	h, err := m.open()
	if err != nil {
		return -1, err
	}
	defer h.close()
	if err := h.mapLower(userns); err != nil {
		return -1, err
	}
	overlay, err := h.create()
	// Before Linux 6.15 overlayfs takes no layer that is mounted nowhere.
	if errors.Is(err, unix.EINVAL) || errors.Is(err, errUnsupported) {
		return m.createAside(userns)
	}
	return overlay, err
}

// createAside does it in a mount namespace of its own, where the mapped layers can be mounted
// somewhere; they go with it. Whenever it is cut off, nothing of their mounts is left.
func (m Mount) createAside(userns int) (int, error) {
	type result struct {
		fd  int
		err error
	}
	done := make(chan result, 1)
	go func() {
		// The thread ends with the goroutine, unless it is the main one, which is held
		// until another has done the work: parked for good it would keep the namespace.
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			defer runtime.UnlockOSThread()
			fd, err := m.createAside(userns)
			done <- result{fd, err}
			return
		}
		fd, err := m.createFromAside(userns)
		done <- result{fd, err}
	}()
	r := <-done
	return r.fd, r.err
}

// createFromAside leaves the calling thread, which ends after it, in the other namespace.
func (m Mount) createFromAside(userns int) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return -1, fmt.Errorf("unshare mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return -1, fmt.Errorf("make mounts private: %w", err)
	}
	return m.buildAside(userns)
}

// buildAside opens the directories once more: those opened before are on the mounts of the
// other namespace.
func (m Mount) buildAside(userns int) (int, error) {
	h, err := m.open()
	if err != nil {
		return -1, err
	}
	defer h.close()
	if err := h.mapLower(userns); err != nil {
		return -1, err
	}
	// The mountpoint serves twice: first for the layers, then over them for the overlay.
	if err := unix.Mount("layers", m.Target, "tmpfs", 0, "mode=0700"); err != nil {
		return -1, fmt.Errorf("mount a place for layers: %w", err)
	}
	for i, fd := range h.lower {
		place := filepath.Join(m.Target, strconv.Itoa(i))
		if err := os.Mkdir(place, 0o700); err != nil {
			return -1, err
		}
		if err := unix.MoveMount(fd, "", unix.AT_FDCWD, place, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return -1, fmt.Errorf("mount layer %d: %w", i, err)
		}
	}
	err = h.mountNew(m.Target)
	if errors.Is(err, errUnsupported) {
		err = h.mountOld(m.Target)
	}
	if err != nil {
		return -1, err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Target, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	return fd, nil
}

// ProbeIDMap finds out whether overlays on the file system of dir can have ID-mapped layers;
// the error says what is missing. It mounts nothing anywhere. dir is made for it, and removed
// with what an earlier probe that was cut off has left in it.
func ProbeIDMap(dir, userns string) (err error) {
	m := Mount{
		Lower: []string{filepath.Join(dir, "lower")}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"),
		Target: filepath.Join(dir, "target"),
	}
	defer func() {
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	for _, d := range []string{dir, m.Lower[0], m.Upper, m.Work, m.Target} {
		if err := os.Mkdir(d, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	ns, err := unix.Open(userns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: userns, Err: err}
	}
	defer unix.Close(ns)
	overlay, err := m.createMapped(ns)
	if err == nil {
		unix.Close(overlay)
	}
	return err
}
