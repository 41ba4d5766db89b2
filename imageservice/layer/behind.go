package layer

import (
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/imageservice/tree"
)

// The files of a large layer leave the page cache as they are written: they would push
// out what pods have there.

// behindWindow is what of a file is on its way to the disk, while as much is written
// after it; a multiple of chunkSize.
const behindWindow = 8 << 20

// writeBehind is called with each size that a file has grown to, in steps that
// behindWindow is a multiple of. It drops what was written two windows ago.
func writeBehind(fd int, size int64) error {
	if size == 0 || size%behindWindow != 0 {
		return nil
	}
	if err := startWriting(fd, size-behindWindow, behindWindow); err != nil || size == behindWindow {
		return err
	}
	return drop(fd, size-2*behindWindow, behindWindow)
}

// startWriting sets n bytes of a file on their way to the disk, all behind offset if n
// is 0.
func startWriting(fd int, offset, n int64) error {
	return tree.SyncRange(fd, offset, n, unix.SYNC_FILE_RANGE_WRITE)
}

// drop waits until these bytes are on the disk and takes them out of the page cache.
// The kernel tells of a lost write once, so its error is the layer's.
func drop(fd int, offset, n int64) error {
	const wait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
	if err := tree.SyncRange(fd, offset, n, wait); err != nil {
		return err
	}
	_ = unix.Fadvise(fd, offset, n, unix.FADV_DONTNEED) // a hint
	return nil
}
