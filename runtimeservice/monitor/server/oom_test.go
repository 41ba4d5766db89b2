package server

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What was counted is known when the cgroup is gone, if nobody asked before.
func TestOOMWatchOutlivesTheCgroup(t *testing.T) {
	_, w := newWatch(t)
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
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
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
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
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
func TestOOMCountWithoutWatch(t *testing.T) {
	dir := cgroupV1(t, 3)
	if err := os.Remove(dir + "/cgroup.event_control"); err != nil {
		t.Fatal(err)
	}
	_, w := newWatch(t)
	count, err := w.add(map[string]string{"memory": dir, "": "/sys/fs/cgroup/unified"})
	if err == nil {
		t.Error("a cgroup that nothing can be asked of is watched")
	}
	same(t, "kills", count.read(), 3)
	same(t, "watched descriptors", len(w.poller.handlers), 1)
}

func newWatch(t *testing.T) (*poller, *oomWatch) {
	t.Helper()
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
	return p, w
}

// cgroupV1 is a directory that looks like one.
func cgroupV1(t *testing.T, kills int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cgroup")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(dir+"/cgroup.event_control", nil, 0o644), setKills(dir, kills)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func setKills(dir string, kills int) error {
	return os.WriteFile(dir+"/memory.oom_control", []byte(fmt.Sprintf("oom_kill_disable 0\nunder_oom 0\noom_kill %d\n", kills)), 0o644)
}

// teller returns what tells what was asked for in the cgroup.
func teller(t *testing.T, dir string) func() {
	t.Helper()
	data, err := os.ReadFile(dir + "/cgroup.event_control")
	if err != nil {
		t.Fatal(err)
	}
	var event, control int
	if _, err := fmt.Sscan(string(data), &event, &control); err != nil {
		t.Fatalf("asked for was %q: %v", data, err)
	}
	return func() {
		if _, err := unix.Write(event, binary.NativeEndian.AppendUint64(nil, 1)); err != nil {
			t.Error(err)
		}
	}
}

func same[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func (c *oomCount) state() (uint64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last, c.expected
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// The kernel tells before it kills; the cgroup may be gone before the kill is counted.
func TestOOMOfACgroupV1ThatIsGone(t *testing.T) {
	dir := cgroupV1(t, 0)
	p, w := newWatch(t)
	count, err := w.add(map[string]string{"memory": dir})
	if err != nil {
		t.Fatal(err)
	}
	tell := teller(t, dir)
	tell()
	eventually(t, "a kill is expected", func() bool { _, expected := count.state(); return expected })
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	same(t, "kills", count.read(), 1)
	same(t, "kills, asked again", count.read(), 1)
	tell() // that it is gone
	eventually(t, "the watch ends", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.handlers) == 1
	})
}

func TestOOMOfACgroupV1(t *testing.T) {
	dir := cgroupV1(t, 0)
	_, w := newWatch(t)
	count, err := w.add(map[string]string{"memory": dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := setKills(dir, 2); err != nil {
		t.Fatal(err)
	}
	teller(t, dir)()
	eventually(t, "the kills are counted", func() bool { kills, _ := count.state(); return kills == 2 })
	// Memory was found after all, or another cgroup was chosen.
	teller(t, dir)()
	eventually(t, "a kill is expected", func() bool { _, expected := count.state(); return expected })
	eventually(t, "no kill is expected any more", func() bool { _, expected := count.state(); return !expected })
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	same(t, "kills", count.read(), 2)
	count.stop()
	count.stop()
	same(t, "watched descriptors", len(w.poller.handlers), 1)
}
