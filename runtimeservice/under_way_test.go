package runtimeservice

import (
	"sync"
	"testing"
)

// It can be waited for while something begins, also for the first time.
func TestUnderWay(t *testing.T) {
	var u underWay
	<-u.ended() // nothing has begun
	u.begin()
	waiting := u.ended()
	u.begin()
	u.end()
	select {
	case <-waiting:
		t.Error("one of two is under way, and all have ended")
	default:
	}
	u.end()
	<-waiting
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 1000 {
				u.begin()
				go u.end()
				<-u.ended()
			}
		})
	}
	all.Wait()
	<-u.ended()
}
