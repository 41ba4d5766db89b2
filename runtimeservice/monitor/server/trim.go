package server

import (
	"runtime/debug"
	"sync/atomic"
	"time"
)

// trimmer gives memory back some time after work was done. Each start and exec
// leaves garbage of some hundred KiB, and the runtime would keep the room for
// the next one for minutes.
type trimmer struct {
	scheduled atomic.Bool
}

// trimDelay is long enough that a burst of work is trimmed once.
const trimDelay = 5 * time.Second

func (t *trimmer) worked() {
	if !t.scheduled.CompareAndSwap(false, true) {
		return
	}
	time.AfterFunc(trimDelay, func() {
		t.scheduled.Store(false)
		debug.FreeOSMemory()
	})
}
