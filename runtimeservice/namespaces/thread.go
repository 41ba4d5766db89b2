package namespaces

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// onDoomedThread runs fn on a thread that ends with it, so that fn may leave the thread in
// any namespace. fn must not start goroutines that rely on where it is.
//
// The main thread cannot end: the Go runtime would park it for good, /proc/self would show
// the pod's namespaces and keep them alive. When fn would land there, that thread is held
// until another one has run it.
func onDoomedThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			defer runtime.UnlockOSThread()
			done <- onDoomedThread(fn)
			return
		}
		// Ending while locked is what ends the thread.
		done <- fn()
	}()
	return <-done
}
