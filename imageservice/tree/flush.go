package tree

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// flushWindow is how many files a Flusher has on their way to the disk at a time.
const flushWindow = 512

// Flusher brings the files of a tree to the disk for a walk that has them open anyway,
// without what other programs have written to the same file system. A file's data is set
// on its way when the walk is done with it, and waited for flushWindow files later. By
// then it has been written, or goes out with many others.
//
// When Close and all before it returned nil, the tree is on the disk as soon as a file
// that is made after that in the same file system is synced. An error means that the tree
// cannot be trusted after a power loss, and that another try may not find out again: the
// kernel tells of a lost write once.
//
// What makes one fsync do for a whole tree (see inOrder): a page's writeback ends after
// its place, its conversion from an unwritten extent and the file's size are in a
// transaction of the journal, like the names, owners, modes and attributes before them.
// The file that is made later is in the same transaction or a later one. ext4 (jbd2)
// commits transactions in order, and a fast commit holds all that changed since the last
// one; XFS forces its log up to the file's checkpoint, and those before it. Either flushes
// the device's cache before it writes the commit, and so after the data. Elsewhere each
// file and directory is synced by itself.
type Flusher struct {
	inOrder bool
	drop    bool
	taken   int
	window  [flushWindow]int // the last ones that were taken, as a ring
}

// NewFlusher is for the tree at path, a directory. With drop, files leave the page cache
// once they are on the disk. Close must be called.
func NewFlusher(path string, drop bool) (*Flusher, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	return &Flusher{inOrder: inOrder(fd), drop: drop}, nil
}

// File takes the descriptor of a regular file. Its error may be that of an earlier one.
func (f *Flusher) File(fd int) error {
	err := SyncRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	slot := &f.window[f.taken%flushWindow]
	if f.taken >= flushWindow {
		err = errors.Join(err, f.finish(*slot))
	}
	*slot = fd
	f.taken++
	return err
}

// Directory brings a directory's names to the disk. The descriptor stays the caller's.
func (f *Flusher) Directory(fd int) error {
	if f.inOrder {
		return nil
	}
	return unix.Fsync(fd)
}

// Close waits for the files that are left.
func (f *Flusher) Close() error {
	var failed []error
	for _, fd := range f.window[:min(f.taken, flushWindow)] {
		failed = append(failed, f.finish(fd))
	}
	f.taken = 0
	return errors.Join(failed...)
}

// finish waits for a file's data and closes it.
func (f *Flusher) finish(fd int) error {
	defer unix.Close(fd)
	if err := f.wait(fd); err != nil {
		name, _ := os.Readlink(fmt.Sprint("/proc/self/fd/", fd))
		return &os.PathError{Op: "sync", Path: name, Err: err}
	}
	if f.drop {
		_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) // a hint
	}
	return nil
}

// wait tells of writes that were lost since fd was opened, and of those before that
// nobody was told of.
func (f *Flusher) wait(fd int) error {
	if f.inOrder {
		return unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	}
	return unix.Fsync(fd)
}

// SyncRange is sync_file_range(2), and nothing for what does not know it.
func SyncRange(fd int, offset, n int64, how int) error {
	err := unix.SyncFileRange(fd, offset, n, how)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESPIPE) {
		return nil
	}
	return err
}

// inOrder tells whether the file system is one that a Flusher relies on, XFS or ext4 with
// a journal, and whether sync_file_range is there at all, which does nothing here. When
// that cannot be told, the answer is no.
func inOrder(fd int) bool {
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil || unix.SyncFileRange(fd, 0, 0, 0) != nil {
		return false
	}
	// ext2 has the same number.
	return fs.Type == unix.XFS_SUPER_MAGIC || fs.Type == unix.EXT4_SUPER_MAGIC && hasJournal(fd)
}

// hasJournal asks ext4 for the thread that writes the journal, which it calls "<none>"
// when there is no journal.
func hasJournal(fd int) bool {
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return false
	}
	device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	if err != nil {
		return false
	}
	task, err := os.ReadFile(filepath.Join("/sys/fs/ext4", filepath.Base(device), "journal_task"))
	if err != nil {
		return false
	}
	_, err = strconv.Atoi(strings.TrimSpace(string(task)))
	return err == nil
}
