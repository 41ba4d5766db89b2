package server

import (
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/logfile"
)

func mustOpen(t *testing.T, dir string) *journal {
	t.Helper()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(j.memory) })
	return j
}

func filled(t *testing.T, text string) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	if _, err := w.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return r, w
}

// What a killed monitor has noted is what the next one finds.
func TestJournalOutlivesAKill(t *testing.T) {
	dir := t.TempDir()
	r, w := filled(t, "aaaabbbb")
	before := mustOpen(t, dir)
	unused, kept := before.take(), before.take()
	at := logfile.Position{Dev: 1, Ino: 2, Size: 3}
	kept.belong("container", logfile.Stderr)
	kept.Writing(at)
	if all := mustOpen(t, dir).unfinished; len(all) != 1 || all[0].phase() != writing || all[0].position() != at {
		t.Fatalf("killed while writing: %+v", all)
	}
	kept.Written([]byte("aaaa"))
	after := mustOpen(t, dir)
	all := after.unfinished
	if len(all) != 1 || all[0].phase() != discarding {
		t.Fatalf("killed while discarding: %+v", all)
	}
	if id, kind := all[0].owner(); id != "container" || kind != logfile.Stderr {
		t.Errorf("it is of %q, %s", id, kind)
	}
	if n := all[0].undiscarded(); n != 4 {
		t.Errorf("%d bytes are left in the pipe", n)
	}
	if len(after.free) != slots-1 {
		t.Errorf("%d slots are free", len(after.free))
	}
	// It is killed again after it has read, and before it could note that.
	if err := all[0].discard(int(r.Fd()), 4, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	all[0].setPhase(discarding)
	if n := mustOpen(t, dir).unfinished[0].undiscarded(); n != 0 {
		t.Errorf("%d bytes are left in the pipe after they were read", n)
	}
	w.Close()
	if rest, _ := io.ReadAll(r); string(rest) != "bbbb" {
		t.Errorf("pipe has %q", rest)
	}
	all[0].give()
	unused.give()
	if left := mustOpen(t, dir).unfinished; len(left) > 0 {
		t.Errorf("%d slots are unfinished", len(left))
	}
}

func TestJournalIsFull(t *testing.T) {
	j := mustOpen(t, t.TempDir())
	for range slots {
		if j.take() == nil {
			t.Fatal("no slot left")
		}
	}
	none := j.take()
	if none != nil {
		t.Fatal("one slot too many")
	}
	// Without a slot it works the same.
	r, w := filled(t, "abc")
	none.belong("x", logfile.Stdout)
	if err := none.discard(int(r.Fd()), 2, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if rest, _ := io.ReadAll(r); string(rest) != "c" {
		t.Errorf("pipe has %q", rest)
	}
	none.give()
}
