// Package overlay mounts overlay file systems of many layers, with the mount API
// of Linux 6.8 and later and with the older one where that is missing.
package overlay

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// MaxLayers is the kernel's limit of lower directories (OVL_MAX_STACK).
const MaxLayers = 500

// Mount describes an overlay mount.
type Mount struct {
	// Lower directories, the topmost first. At least one, no two the same.
	Lower []string
	// Upper and Work make it writable; both empty, it is read-only, and the
	// kernel asks for at least two lower directories.
	Upper, Work string
	// Label is the SELinux label that all files show; "" for their own.
	Label string
	// Target is the mountpoint, an existing directory.
	Target string
	// UserNS is the path of a user namespace to whose IDs the files of the lower
	// directories belong, as if they had been given to them; "" for none. Upper
	// belongs already to whom it should. It takes Linux 5.19, and file systems
	// that can be ID-mapped.
	UserNS string

	// aside has a test mount as older kernels need it.
	aside bool
}

// errUnsupported tells that this kernel does not know how.
var errUnsupported = errors.New("not supported by this kernel")

// Do mounts. What containers write is not synced when it is unmounted
// ("volatile"): it does not outlive the machine's going down.
func (m Mount) Do() error {
	if len(m.Lower) == 0 || len(m.Lower) > MaxLayers {
		return fmt.Errorf("mount overlay of %d layers, at least 1 and at most %d are possible: %w", len(m.Lower), MaxLayers, errdefs.ErrInvalidArgument)
	}
	mount := m.doPlain
	if m.UserNS != "" {
		mount = m.doMapped
	}
	if err := mount(); err != nil {
		return fmt.Errorf("mount overlay of %d layers on %s: %w", len(m.Lower), m.Target, err)
	}
	return nil
}

func (m Mount) doPlain() error {
	h, err := m.open()
	if err != nil {
		return err
	}
	defer h.close()
	err = h.mountNew(m.Target)
	if errors.Is(err, errUnsupported) {
		err = h.mountOld(m.Target)
	}
	return err
}

// handles are descriptors of the directories. The kernel is given their names
// in /proc: these are short, so that hundreds fit the one page of the old API
// and the 256 bytes of a string of the new one, and hold no character that
// separates options.
type handles struct {
	lower       []int
	upper, work int
	label       string
}

func (m Mount) open() (*handles, error) {
	h := &handles{upper: -1, work: -1, label: m.Label}
	for _, dir := range m.Lower {
		fd, err := openPath(dir)
		if err != nil {
			h.close()
			return nil, err
		}
		h.lower = append(h.lower, fd)
	}
	var err error
	if m.Upper != "" {
		if h.upper, err = openPath(m.Upper); err == nil {
			h.work, err = openPath(m.Work)
		}
	}
	if err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func openPath(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

func (h *handles) close() {
	for _, fd := range append(h.lower, h.upper, h.work) {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// flags and strings that both ways of mounting set.
func (h *handles) options() (flags []string, values [][2]string) {
	values = [][2]string{{"index", "off"}, {"metacopy", "off"}}
	if h.upper >= 0 {
		values = append(values, [2]string{"upperdir", procPath(h.upper)}, [2]string{"workdir", procPath(h.work)})
		flags = append(flags, "volatile")
	}
	if h.label != "" {
		values = append(values, [2]string{"context", h.label})
	}
	return flags, values
}

func (h *handles) mountNew(target string) error {
	mnt, err := h.create()
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	return attach(mnt, target)
}

func attach(mnt int, target string) error {
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// create makes the overlay and returns a descriptor of it, mounted nowhere.
func (h *handles) create() (int, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, errUnsupported
	}
	defer unix.Close(fs)
	if takesAnything(fs) {
		return -1, errUnsupported
	}
	for i, fd := range h.lower {
		if err := unix.FsconfigSetString(fs, "lowerdir+", procPath(fd)); err != nil {
			if i == 0 && errors.Is(err, unix.EINVAL) {
				return -1, errUnsupported
			}
			return -1, fsError(fs, "lowerdir+", err)
		}
	}
	flags, values := h.options()
	for _, v := range values {
		if err := unix.FsconfigSetString(fs, v[0], v[1]); err != nil {
			return -1, fsError(fs, v[0], err)
		}
	}
	for _, f := range flags {
		if err := unix.FsconfigSetFlag(fs, f); err != nil {
			return -1, fsError(fs, f, err)
		}
	}
	if h.upper < 0 {
		if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
			return -1, fsError(fs, "ro", err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fsError(fs, "create", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fsError(fs, "fsmount", err)
	}
	return mnt, nil
}

// takesAnything tells of an overlayfs older than Linux 6.5, which knows nothing of the new
// API: the kernel then gathers parameters unseen, as a text for the old one, and would only
// refuse "lowerdir+" in the end. One that looks at them wants a value for it.
func takesAnything(fs int) bool {
	err := unix.FsconfigSetFlag(fs, "lowerdir+")
	if err != nil {
		_ = fsError(fs, "lowerdir+", err) // takes the complaint out of the log
	}
	return err == nil
}

// fsError adds what the kernel has to say, which is more than a number.
func fsError(fs int, step string, err error) error {
	buf := make([]byte, 4096)
	n, rerr := unix.Read(fs, buf)
	if rerr != nil || n <= 2 {
		return fmt.Errorf("%s: %w", step, err)
	}
	return fmt.Errorf("%s: %w (%s)", step, err, strings.TrimSpace(string(buf[2:n])))
}

func (h *handles) mountOld(target string) error {
	flags, values := h.options()
	lower := make([]string, len(h.lower))
	for i, fd := range h.lower {
		lower[i] = procPath(fd)
	}
	opts := append(flags, "lowerdir="+strings.Join(lower, ":"))
	for _, v := range values {
		if v[0] == "context" {
			v[1] = strconv.Quote(v[1]) // its categories are separated by commas
		}
		opts = append(opts, v[0]+"="+v[1])
	}
	data := strings.Join(opts, ",")
	if len(data) >= os.Getpagesize() {
		return fmt.Errorf("%d layers do not fit the mount options of this kernel: %w", len(h.lower), errdefs.ErrInvalidArgument)
	}
	var mountFlags uintptr
	if h.upper < 0 {
		mountFlags = unix.MS_RDONLY
	}
	return unix.Mount("overlay", target, "overlay", mountFlags, data)
}

// Mounted tells whether an overlay is mounted at target.
func Mounted(target string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, target, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_TYPE, &st)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "statx", Path: target, Err: err}
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, fmt.Errorf("statx tells of no mountpoints: %w", errUnsupported)
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return false, nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(target, &fs); err != nil {
		return false, &os.PathError{Op: "statfs", Path: target, Err: err}
	}
	return fs.Type == unix.OVERLAYFS_SUPER_MAGIC, nil
}

// Unmount takes away every mount at target; what still has files open there keeps
// them until it closes them. It is idempotent.
func Unmount(target string) error {
	for {
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		}
		switch {
		case err == nil:
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			return nil // not a mountpoint, or not any more
		}
		return &os.PathError{Op: "umount", Path: target, Err: err}
	}
}
