package runtimeservice

import "sync"

// underWay counts what goes on. Unlike a sync.WaitGroup it may be waited for while something
// begins: calls still come in when Run ends. The zero value is ready.
type underWay struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n is back at 0
}

func (u *underWay) begin() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.n == 0 {
		u.idle = make(chan struct{})
	}
	u.n++
}

// end is called once for each begin.
func (u *underWay) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.n--; u.n == 0 {
		close(u.idle)
	}
}

// ended returns a channel that is closed when nothing is under way, for a moment at least.
func (u *underWay) ended() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.n > 0 {
		return u.idle
	}
	none := make(chan struct{})
	close(none)
	return none
}
