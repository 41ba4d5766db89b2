package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func open1(t testing.TB) (*Writer, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	w, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w, path
}

// entries returns stream, tag and text of each entry.
func entries(t testing.TB, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	var last time.Time
	for line := range strings.Lines(string(data)) {
		stamp, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		at, err := time.Parse(time.RFC3339Nano, stamp)
		if err != nil || at.Before(last) || !strings.HasSuffix(line, "\n") {
			t.Fatalf("malformed entry %q after %v", line, last)
		}
		last = at
		all = append(all, rest)
	}
	return all
}

func TestAppend(t *testing.T) {
	long := strings.Repeat("x", MaxLine)
	for name, c := range map[string]struct {
		output string
		hold   int
		end    bool
		want   []string
		left   int
	}{
		"nothing":            {"", MaxLine, false, nil, 0},
		"line":               {"a b\n", MaxLine, false, []string{"stdout F a b"}, 0},
		"lines":              {"a\n\nb\n", MaxLine, false, []string{"stdout F a", "stdout F ", "stdout F b"}, 0},
		"beginning is held":  {"a\nbc", MaxLine, false, []string{"stdout F a"}, 2},
		"beginning too long": {"a\nbcd", 2, false, []string{"stdout F a", "stdout P bcd"}, 0},
		"end":                {"a\nbc", MaxLine, true, []string{"stdout F a", "stdout F bc"}, 0},
		"longest":            {long + "\n", MaxLine, false, []string{"stdout F " + long}, 0},
		"longest is held":    {long, MaxLine, false, nil, MaxLine},
		"longer":             {long + "y\n", MaxLine, false, []string{"stdout P " + long, "stdout F y"}, 0},
		"longer, held":       {long + "yz", MaxLine, false, []string{"stdout P " + long}, 2},
		"carriage return":    {"a\r\n", MaxLine, false, []string{"stdout F a\r"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w, path := open1(t)
			n, err := w.Append(Stdout, []byte(c.output), c.hold, c.end)
			if err != nil || n != len(c.output)-c.left {
				t.Errorf("took %d of %d, %v; %d should be left", n, len(c.output), err, c.left)
			}
			if got := entries(t, path); fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("got %.200q, want %.200q", got, c.want)
			}
		})
	}
}

// Whatever the pieces in which output comes, its text is in the log.
func FuzzAppend(f *testing.F) {
	f.Add([]byte("a\nb\nc"), uint16(2), uint16(100))
	f.Add(bytes.Repeat([]byte("x"), 3*MaxLine), uint16(5000), uint16(MaxLine))
	f.Fuzz(func(t *testing.T, output []byte, size, hold uint16) {
		w, path := open1(t)
		var held []byte
		for rest := output; len(rest) > 0; {
			n := min(len(rest), int(size)+1)
			held = append(held, rest[:n]...)
			rest = rest[n:]
			took, err := w.Append(Stderr, held, min(int(hold), MaxLine), false)
			if err != nil {
				t.Fatal(err)
			}
			held = append([]byte(nil), held[took:]...)
			if len(held) > int(hold) || bytes.IndexByte(held, '\n') >= 0 {
				t.Fatalf("%d bytes left over, %d may be", len(held), hold)
			}
		}
		if _, err := w.Append(Stderr, held, 0, true); err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		for _, e := range entries(t, path) {
			text, full := strings.CutPrefix(e, "stderr F ")
			if !full {
				text = strings.TrimPrefix(e, "stderr P ")
			}
			if len(text) > MaxLine {
				t.Fatalf("entry of %d bytes", len(text))
			}
			got.WriteString(text)
			if full {
				got.WriteByte('\n')
			}
		}
		want := output
		if len(want) > 0 && want[len(want)-1] != '\n' && got.Len() == len(want)+1 {
			want = append(append([]byte(nil), want...), '\n')
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Fatalf("got %q, want %q", got.Bytes(), want)
		}
	})
}

func TestReopen(t *testing.T) {
	w, path := open1(t)
	var wg sync.WaitGroup
	const writers, lines = 4, 2000
	for i := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for j := range lines {
				if _, err := w.Append(Stream(i%2), fmt.Appendf(nil, "%d-%d\n", i, j), MaxLine, false); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	files := []string{path}
	for i := range 20 {
		old := fmt.Sprint(path, i)
		if err := os.Rename(path, old); err != nil {
			t.Fatal(err)
		}
		if err := w.Reopen(); err != nil {
			t.Fatal(err)
		}
		files = append(files, old)
	}
	wg.Wait()
	seen := map[string]int{}
	for _, f := range files {
		for _, e := range entries(t, f) {
			seen[e[len("stdout F "):]]++
		}
	}
	for i := range writers {
		for j := range lines {
			if n := seen[fmt.Sprintf("%d-%d", i, j)]; n != 1 {
				t.Fatalf("line %d-%d is there %d times", i, j, n)
			}
		}
	}
}

func TestReopenFails(t *testing.T) {
	w, path := open1(t)
	old := path + ".old"
	if err := os.Rename(path, old); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", path); err != nil {
		t.Fatal(err)
	}
	if err := w.Reopen(); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("reopen of a symbolic link: %v", err)
	}
	if _, err := w.Append(Stdout, []byte("x\n"), 0, false); err != nil {
		t.Error(err)
	}
	if got := entries(t, old); len(got) != 1 {
		t.Errorf("got %q", got)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	link, fifo := filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	if err := os.Symlink(filepath.Join(dir, "target"), link); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, fifo, dir, filepath.Join(dir, "none", "log")} {
		if w, err := Open(path); err == nil {
			w.Close()
			t.Errorf("%s was opened", path)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "target")); err == nil {
		t.Error("the target of the link was made")
	}
}

// A writer that was killed leaves a piece of an entry.
func TestOpenTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	whole := "2020-01-02T03:04:05Z stdout F whole\n"
	for _, before := range []string{"", whole} {
		if err := os.WriteFile(path, []byte(before+"2020-01-02T03:04:06Z stdo"), 0o640); err != nil {
			t.Fatal(err)
		}
		w, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Append(Stdout, []byte("next\n"), 0, false); err != nil {
			t.Error(err)
		}
		w.Close()
		got := entries(t, path)
		if len(got) == 0 || got[len(got)-1] != "stdout F next" || len(got) != 1+strings.Count(before, "\n") {
			t.Errorf("got %q", got)
		}
	}
}

// A disk that is full for a while damages no entry but the one it cuts short.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path := filepath.Join(dir, "log")
	w, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	big := bytes.Repeat([]byte("0123456789\n"), 10000)
	n, err := w.Append(Stdout, big, MaxLine, false)
	if !errors.Is(err, syscall.ENOSPC) || n != len(big) {
		t.Fatalf("took %d of %d, %v", n, len(big), err)
	}
	if err := os.Truncate(path, 1000); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Append(Stdout, []byte("again\n"), MaxLine, false); err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(path)
	if !bytes.HasSuffix(data, []byte(" stdout F again\n")) || bytes.Count(data, []byte("again")) != 1 {
		t.Errorf("log ends with %q", data[len(data)-100:])
	}
}

func BenchmarkAppend(b *testing.B) {
	w, path := open1(b)
	data := bytes.Repeat([]byte("a line of a usual length, as programs write them by the thousand\n"), 900)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := w.Append(Stdout, data, MaxLine, false); err != nil {
			b.Fatal(err)
		}
		if err := os.Truncate(path, 0); err != nil {
			b.Fatal(err)
		}
	}
}
