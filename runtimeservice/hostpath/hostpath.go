// Package hostpath looks at paths of the node that may lie on a file system that does not
// answer: a FUSE server that hangs, an NFS server that is gone. One who waits for such a file
// system may be beyond SIGKILL, and a process with a thread that is cannot end. So the daemon
// must not wait there itself.
//
// Resolver asks the kernel first for what it can say without asking a file system, which is
// so for nearly every path, and costs less than a walk. What is left is done by a process of
// its own (Run), if the node has a mount that might not answer; that process is left behind
// when it does not come back.
package hostpath

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoAnswer is the error for a path on a file system that does not answer.
var ErrNoAnswer = errors.New("the file system does not answer")

// Path is a path of the node without links.
type Path struct {
	Name string
	// Mount is the ID of the mount that it is on, as in /proc/self/mountinfo.
	Mount uint64
}

const (
	// patience is how long a file system may take to answer.
	patience = 20 * time.Second
	// resolveCached is RESOLVE_CACHED of openat2(2): EAGAIN in place of asking a file system.
	resolveCached = 0x20
	// maxLost is how many processes may wait for file systems at a time.
	maxLost = 16
)

// Resolver resolves paths. It is safe for concurrent use.
type Resolver struct {
	program  string
	patience time.Duration
	waiting  chan struct{} // has an element for each process that looks
}

// New makes a Resolver. program is one that calls Run when its first argument is Command,
// with the second; "" has everything looked at by this process.
func New(program string) *Resolver {
	return &Resolver{program: program, patience: patience, waiting: make(chan struct{}, maxLost)}
}

// Resolve follows the links of an absolute path. It changes nothing and may be repeated. The
// error is an *fs.PathError of the kernel's error, such as fs.ErrNotExist; it is of ErrNoAnswer
// if the file system gave none in time, and ctx's own if that ended before.
func (r *Resolver) Resolve(ctx context.Context, name string) (Path, error) {
	if trimmed := strings.TrimRight(name, "/"); trimmed != "" {
		name = trimmed
	}
	p, err := open(name, resolveCached)
	if err == nil || !unsure(err) {
		return p, pathError(name, err)
	}
	if r.program != "" {
		risky, err := anyMayHang()
		if err != nil {
			return Path{}, err
		}
		if risky {
			return r.ask(ctx, name)
		}
	}
	p, err = look(name)
	return p, pathError(name, err)
}

// unsure tells whether the kernel would have to ask a file system, or cannot be asked so: it
// is older than 5.12, or the path goes through a link of /proc that is none.
func unsure(err error) bool {
	return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ELOOP)
}

// look resolves a path and waits for its file systems.
func look(name string) (Path, error) {
	p, err := open(name, 0)
	if !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return p, err
	}
	plain, err := filepath.EvalSymlinks(name)
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) {
		return Path{}, unix.ELOOP // the one error of its own
	}
	if err != nil {
		return Path{}, err
	}
	fd, err := unix.Open(plain, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return Path{}, err
	}
	defer unix.Close(fd)
	p, err = describe(fd)
	p.Name = plain
	return p, err
}

// open resolves a path with openat2(2). The links in /proc that lead to open files and to other
// processes' roots are not followed.
func open(name string, resolve uint64) (Path, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(unix.AT_FDCWD, name, &how)
	for errors.Is(err, unix.EINTR) {
		fd, err = unix.Openat2(unix.AT_FDCWD, name, &how)
	}
	if err != nil {
		return Path{}, err
	}
	defer unix.Close(fd)
	return describe(fd)
}

// describe asks no file system: neither a name nor a mount's ID is anything it knows.
func describe(fd int) (Path, error) {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return Path{}, err
	}
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return Path{}, err
	}
	return Path{Name: name, Mount: st.Mnt_id}, nil
}

// pathError says which path an error of the kernel is about.
func pathError(name string, err error) error {
	var known *fs.PathError
	if err == nil || errors.As(err, &known) {
		return err
	}
	return &fs.PathError{Op: "resolve", Path: name, Err: err}
}
