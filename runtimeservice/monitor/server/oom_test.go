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

// cgroupV2 is a directory that looks like one, without kills.
func cgroupV2(t *testing.T, dir string) string {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "memory.events"), []byte("low 0\noom_kill 0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// setKillsV2 overwrites one digit: to a reader of the kernel's files they are never empty.
func setKillsV2(t *testing.T, dir string, kills int) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "memory.events"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{byte('0' + kills)}, int64(len("low 0\noom_kill "))); err != nil {
		t.Fatal(err)
	}
}

func removeAll(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

// watchBelow has the watch count in new cgroups below dir.
func watchBelow(t *testing.T, w *oomWatch, dir string, names ...string) []*oomCount {
	t.Helper()
	counts := make([]*oomCount, len(names))
	for i, name := range names {
		var err error
		if counts[i], err = w.add(map[string]string{"": cgroupV2(t, filepath.Join(dir, name))}); err != nil {
			t.Fatal(err)
		}
	}
	return counts
}

// What was counted is known when the cgroup is gone, if nobody asked before.
func TestOOMWatchOutlivesTheCgroup(t *testing.T) {
	_, w := newWatch(t)
	dir := t.TempDir() // without counts of its own
	count := watchBelow(t, w, dir, "container")[0]
	dir = filepath.Join(dir, "container")
	setKillsV2(t, dir, 2)
	eventually(t, "the kills are seen", func() bool { return count.known() == 2 })
	removeAll(t, dir)
	same(t, "kills afterwards", count.read(), 2)
	eventually(t, "the watch ends", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.watched) == 0
	})
}

// What was not counted while the cgroup was there is known from the one above.
func TestOOMOfACgroupV2ThatIsGone(t *testing.T) {
	_, w := newWatch(t)
	pod := cgroupV2(t, filepath.Join(t.TempDir(), "pod"))
	setKillsV2(t, pod, 5) // before anything was counted
	counts := watchBelow(t, w, pod, "killed", "neighbour", "ended")
	killed, neighbour, ended := counts[0], counts[1], counts[2]

	ended.parent.mu.Lock()
	setKillsV2(t, pod+"/neighbour", 1)
	setKillsV2(t, pod, 6)
	removeAll(t, pod+"/ended")
	ended.parent.mu.Unlock()
	same(t, "kills in one that ended as its neighbour had one", ended.read(), 0)
	same(t, "kills in the neighbour", neighbour.read(), 1)

	setKillsV2(t, pod, 7)
	eventually(t, "a kill elsewhere in the pod is known", func() bool {
		p := killed.parent
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.explained == 7
	})
	same(t, "kills after one elsewhere", killed.read(), 0)

	killed.parent.mu.Lock() // nobody looks between a kill and its count
	setKillsV2(t, pod, 9)
	removeAll(t, pod+"/killed")
	killed.parent.mu.Unlock()
	same(t, "kills in one that is gone", killed.read(), 2)
	same(t, "kills in it, asked again", killed.read(), 2)
	same(t, "kills in the neighbour afterwards", neighbour.read(), 1)
	same(t, "kills in the one that ended", ended.read(), 0)

	for _, c := range counts {
		c.stop()
		c.stop()
	}
	eventually(t, "the watch of the pod ends", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.parents) == 0 && len(w.watched) == 1 // the neighbour's cgroup is there still
	})
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
	t.Cleanup(func() { unix.Close(w.fd) })
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
