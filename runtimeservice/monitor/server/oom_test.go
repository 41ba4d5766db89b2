package server

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What was counted is known when the cgroup is gone, if nobody asked before.
func TestOOMWatchOutlivesTheCgroup(t *testing.T) {
	p, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	go p.run()
	t.Cleanup(p.stop)
	w, err := newOOMWatch(p)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "cgroup")
	events := filepath.Join(dir, "memory.events")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(events, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("low 0\noom 0\noom_kill 0\n")
	count, err := w.add(map[string]string{"": dir})
	if err != nil {
		t.Fatal(err)
	}
	write("low 0\noom 1\noom_kill 2\n")
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		count.mu.Lock()
		seen := count.last
		count.mu.Unlock()
		if seen == 2 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d kills were seen", seen)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if got := count.read(); got != 2 {
		t.Errorf("%d kills are known afterwards", got)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		w.mu.Lock()
		left := len(w.counts)
		w.mu.Unlock()
		if left == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d counts are kept", left)
		}
	}
}

// Where nothing can be watched the count is read when it is asked for.
func TestOOMWatchOfV1(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "memory.oom_control"), []byte("under_oom 0\noom_kill 3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	count, err := (&oomWatch{}).add(map[string]string{"memory": dir, "": "/sys/fs/cgroup/unified"})
	if err != nil || count.read() != 3 {
		t.Errorf("%d kills: %v", count.read(), err)
	}
}
