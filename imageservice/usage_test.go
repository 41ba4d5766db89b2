package imageservice

import (
	"fmt"
	"testing"
	"time"

	"github.com/berth-cri/berth/imageservice/store"
)

// An hour of a node with many small containers, some large ones and a huge one.
func TestMeasurementsKeepToTheirShare(t *testing.T) {
	const tick, hour = 15 * time.Second, time.Hour
	takes := map[string]time.Duration{"huge": 20 * time.Second}
	for i := range 250 {
		takes[fmt.Sprint("small", i)] = time.Millisecond
		takes[fmt.Sprint("large", i%10)] = 500 * time.Millisecond
	}
	last := map[string]store.RootfsUsage{}
	for id := range takes {
		last[id] = store.RootfsUsage{}
	}
	begin := time.Now()
	var total time.Duration
	count := map[string]int{}
	for now := begin; now.Sub(begin) < hour; now = now.Add(tick) {
		for _, id := range dueForMeasurement(last, now) {
			last[id] = store.RootfsUsage{At: now, Took: takes[id]}
			count[id]++
			if now != begin { // when nothing is known
				total += takes[id]
			}
		}
	}
	if total > hour/usageShare {
		t.Errorf("measuring took %s of an hour", total)
	}
	if count["small1"] < int(hour/tick)/2 || count["large1"] < 12 || count["huge"] < 3 {
		t.Errorf("small: %d measurements, large: %d, huge: %d", count["small1"], count["large1"], count["huge"])
	}
}
