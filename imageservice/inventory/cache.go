package inventory

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cached tells of each page of a file whether it was in the page cache. Without pages,
// nothing is known.
type cached []byte

// maxLooked bounds the memory that is taken to look at a file: one byte a page.
const maxLooked = 64 << 30

// lookAtCache asks by mincore(2): cachestat(2) is younger than kernels that are in use,
// and counts pages without telling which.
func lookAtCache(fd int, size int64) cached {
	if size == 0 || size > maxLooked {
		return nil
	}
	memory, err := unix.Mmap(fd, 0, int(size), unix.PROT_NONE, unix.MAP_SHARED)
	if err != nil {
		return nil
	}
	defer func() { _ = unix.Munmap(memory) }()
	page := os.Getpagesize()
	pages := make(cached, (len(memory)+page-1)/page)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&memory[0])), uintptr(len(memory)), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		return nil
	}
	return pages
}

// restore takes the pages between two offsets out of the page cache that were not in it.
func (c cached) restore(fd int, begin, end int64) {
	page := int64(os.Getpagesize())
	last := min((end+page-1)/page, int64(len(c)))
	for i := begin / page; i < last; i++ {
		first := i
		for i < last && c[i]&1 == 0 {
			i++
		}
		if i > first {
			_ = unix.Fadvise(fd, first*page, (i-first)*page, unix.FADV_DONTNEED) // a hint
		}
	}
}
