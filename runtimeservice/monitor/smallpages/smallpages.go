// Package smallpages keeps transparent huge pages from libcontainer's init, which
// is this program with "init" as its argument. It runs in the container's cgroup: on
// a node that gives them to every process, the heap of the Go runtime takes two or
// three of 2 MiB at once, and where the memory limit is as low as that the kernel
// kills it before the command runs.
package smallpages

// #cgo CFLAGS: -Wall -Werror
// void berth_end_small_pages(void *heap);
import "C"

import "unsafe"

// End lets the process have huge pages again, but not in the heap as it is, as the
// command inherits that it has none. Without effect in other processes than init.
func End() {
	heap := new(int)
	C.berth_end_small_pages(unsafe.Pointer(heap))
}
