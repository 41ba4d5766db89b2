package crilog

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const stamp = "2026-01-02T03:04:05.000000006Z"

func line(stream, tag, content string) string {
	return stamp + " " + stream + " " + tag + " " + content + "\n"
}

func TestParse(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for text, want := range map[string]Entry{
		line("stdout", "F", "hello world"):                            {at, Stdout, false, []byte("hello world")},
		line("stderr", "P", "half"):                                   {at, Stderr, true, []byte("half")},
		line("stdout", "F", ""):                                       {at, Stdout, false, []byte("")},
		line("stdout", "F", "  spaces "):                              {at, Stdout, false, []byte("  spaces ")},
		line("stdout", "P:later:tags", "x"):                           {at, Stdout, true, []byte("x")},
		strings.TrimSuffix(line("stdout", "F", "no line feed"), "\n"): {at, Stdout, false, []byte("no line feed")},
		stamp + " stdout F\n":                                         {at, Stdout, false, []byte("")},
		line("stdout", "F", "bytes \x00\xff\r"):                       {at, Stdout, false, []byte("bytes \x00\xff\r")},
	} {
		got, err := Parse([]byte(text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if !got.Time.Equal(want.Time) || got.Stream != want.Stream || got.Partial != want.Partial || !bytes.Equal(got.Content, want.Content) {
			t.Errorf("%q: got %+v", text, got)
		}
	}
	for _, text := range []string{
		"", "\n", "hello", "hello world", "yesterday stdout F x", stamp, stamp + " stdout", stamp + " stdin F x", stamp + " stdout Q x",
		stamp + " stdout  x", strings.Repeat("x", 1000),
	} {
		if e, err := Parse([]byte(text)); err == nil {
			t.Errorf("%q is taken as %+v", text, e)
		} else if len(err.Error()) > 400 {
			t.Errorf("%q: the error has %d bytes", text, len(err.Error()))
		}
	}
}

func TestPrinterJoinsParts(t *testing.T) {
	var out, errOut bytes.Buffer
	p := &Printer{Out: &out, Err: &errOut, Timestamps: true}
	for _, l := range []string{
		line("stdout", "P", "a"), line("stderr", "F", "E"), line("stdout", "P", "b"), line("stdout", "F", "c"),
		line("stdout", "F", ""), "not a log line\n", line("stdout", "P", "end"),
	} {
		if err := p.Print([]byte(l)); err != nil {
			t.Fatal(err)
		}
	}
	want := stamp + " abc\n" + stamp + " \nnot a log line\n" + stamp + " end"
	if out.String() != want || errOut.String() != stamp+" E\n" {
		t.Errorf("output %q, errors %q", out.String(), errOut.String())
	}
}

// naive finds the beginning of the last n lines by reading everything.
func naive(text string, n int) string {
	var starts []int
	begins := true
	for pos := 0; pos < len(text); {
		end := len(text)
		if i := strings.IndexByte(text[pos:], '\n'); i >= 0 {
			end = pos + i + 1
		}
		if begins {
			starts = append(starts, pos)
		}
		e, err := Parse([]byte(text[pos:end]))
		begins = err != nil || !e.Partial
		pos = end
	}
	if n <= 0 {
		return ""
	}
	if n >= len(starts) {
		return text
	}
	return text[starts[len(starts)-n]:]
}

func TestTailOffset(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	texts := []string{"", line("stdout", "F", "x"), line("stdout", "P", "x"), "\n\n\n"}
	for range 30 {
		var b strings.Builder
		for range random.IntN(60) {
			tag := "F"
			if random.IntN(3) == 0 {
				tag = "P"
			}
			// Some lines are longer than a block.
			size := random.IntN(200)
			if random.IntN(10) == 0 {
				size = blockSize + random.IntN(blockSize)
			}
			b.WriteString(line("stdout", tag, strings.Repeat("x", size)))
		}
		texts = append(texts, b.String(), strings.TrimSuffix(b.String(), "\n"))
	}
	for i, text := range texts {
		for _, n := range []int{-1, 0, 1, 2, 5, 100} {
			offset, err := TailOffset(strings.NewReader(text), int64(len(text)), n)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := text[offset:], naive(text, n); got != want {
				t.Errorf("text %d, last %d lines: %d bytes, want %d", i, n, len(got), len(want))
			}
		}
	}
}

type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// follower is a Read that runs.
type follower struct {
	t    *testing.T
	out  safeBuffer
	done chan struct{}
	end  chan error
}

func follow(t *testing.T, ctx context.Context, path string, tail int) *follower {
	f := &follower{t: t, done: make(chan struct{}), end: make(chan error, 1)}
	go func() {
		f.end <- Read(ctx, path, &Printer{Out: &f.out, Err: &f.out}, Options{Tail: tail, Follow: true, Done: f.done})
	}()
	return f
}

func (f *follower) waitFor(text string) {
	f.t.Helper()
	for end := time.Now().Add(20 * time.Second); f.out.String() != text; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("output %q, want %q", f.out.String(), text)
		}
	}
}

func (f *follower) wait() {
	f.t.Helper()
	select {
	case err := <-f.end:
		if err != nil {
			f.t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		f.t.Fatal("it does not end")
	}
}

func write(t *testing.T, f *os.File, text string) {
	t.Helper()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestFollowAcrossRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	log := create(t, path)
	write(t, log, line("stdout", "F", "old")+line("stdout", "F", "one"))
	f := follow(t, t.Context(), path, 1)
	f.waitFor("one\n")
	// A line that is written in two halves.
	write(t, log, stamp+" stdout F tw")
	write(t, log, "o\n")
	f.waitFor("one\ntwo\n")
	if err := os.Rename(path, path+".20260102"); err != nil {
		t.Fatal(err)
	}
	// Until it reopens the log, the runtime writes to the renamed file.
	write(t, log, line("stdout", "F", "three"))
	f.waitFor("one\ntwo\nthree\n")
	rotated := create(t, path)
	write(t, rotated, line("stdout", "F", "five"))
	write(t, log, line("stdout", "F", "four"))
	f.waitFor("one\ntwo\nthree\nfour\nfive\n")
	write(t, rotated, line("stdout", "P", "si")+line("stdout", "P", "x"))
	close(f.done)
	f.wait()
	f.waitFor("one\ntwo\nthree\nfour\nfive\nsix")
}

func TestFollowLosesNothingUnderRotations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	f := follow(t, t.Context(), path, -1)
	var want strings.Builder
	log := create(t, path)
	for i := range 3000 {
		fmt.Fprintf(&want, "line %d\n", i)
		write(t, log, line("stdout", "F", fmt.Sprintf("line %d", i)))
		if i%1000 == 999 {
			// As a kubelet does, which rotates no more often than it looks.
			f.waitFor(want.String())
			if err := os.Rename(path, fmt.Sprintf("%s.%d", path, i)); err != nil {
				t.Fatal(err)
			}
			log = create(t, path)
		}
	}
	close(f.done)
	f.wait()
	f.waitFor(want.String())
}

func TestFollowTruncation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	log := create(t, path)
	write(t, log, line("stdout", "F", "a long line before it")+line("stdout", "F", "x"))
	f := follow(t, t.Context(), path, -1)
	f.waitFor("a long line before it\nx\n")
	if err := log.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	write(t, log, line("stdout", "F", "after"))
	f.waitFor("a long line before it\nx\nafter\n")
	close(f.done)
	f.wait()
}

func TestFollowWaitsForTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	f := follow(t, t.Context(), path, -1)
	log := create(t, path)
	write(t, log, line("stdout", "F", "here"))
	f.waitFor("here\n")
	close(f.done)
	f.wait()
}

func TestFollowEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	f := follow(t, t.Context(), path, -1)
	close(f.done) // a container that never wrote
	f.wait()
	create(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	f = follow(t, ctx, path, -1)
	cancel()
	f.wait()
}

func TestReadWithoutFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	if err := Read(t.Context(), path, &Printer{}, Options{Tail: -1}); !os.IsNotExist(unwrap(err)) {
		t.Errorf("a missing file gives %v", err)
	}
	long := strings.Repeat("y", 3*blockSize)
	write(t, create(t, path), line("stdout", "F", long)+"2026-01-02T03:04:05Z stdout F cut of")
	var out bytes.Buffer
	if err := Read(t.Context(), path, &Printer{Out: &out, Err: &out}, Options{Tail: -1}); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), long+"\ncut of\n"; got != want {
		t.Errorf("%d bytes, want %d", len(got), len(want))
	}
}

func unwrap(err error) error {
	if u, ok := err.(interface{ Unwrap() error }); ok {
		return u.Unwrap()
	}
	return err
}
