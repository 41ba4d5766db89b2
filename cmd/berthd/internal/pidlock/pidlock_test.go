package pidlock

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestOneAtATime(t *testing.T) {
	dir := t.TempDir()
	first, err := Acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Acquire(dir)
	var held *HeldError
	if !errors.As(err, &held) || held.PID != os.Getpid() || held.Dir != dir {
		t.Fatalf("error is %#v", err)
	}
	for _, want := range []string{dir, "PID " + strconv.Itoa(os.Getpid())} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
	first.Release()
	first.Release()
	second, err := Acquire(dir)
	if err != nil {
		t.Fatalf("after the release: %v", err)
	}
	second.Release()
}

// A program that a killed daemon was about to start has its descriptors for an instant.
func TestLockThatIsAboutToGo(t *testing.T) {
	dir := t.TempDir()
	first, err := Acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		time.Sleep(20 * time.Millisecond)
		first.Release()
	}()
	second, err := Acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	second.Release()
}

func TestTwoDirectories(t *testing.T) {
	for range 2 {
		lock, err := Acquire(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer lock.Release()
	}
}

// A PID left by a process that was killed means nothing.
func TestFileOfADeadProcess(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, FileName), []byte("1234567890\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	lock, err := Acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	text, err := os.ReadFile(filepath.Join(dir, FileName))
	if err != nil || string(text) != strconv.Itoa(os.Getpid())+"\n" {
		t.Errorf("the file has %q, %v", text, err)
	}
}

func TestHolderThatDoesNotSay(t *testing.T) {
	dir := t.TempDir()
	file, err := os.Create(filepath.Join(dir, FileName))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	var held *HeldError
	if _, err := Acquire(dir); !errors.As(err, &held) || held.PID != 0 || !strings.Contains(err.Error(), "another berthd") {
		t.Errorf("error is %v", err)
	}
}

func TestNoDirectory(t *testing.T) {
	if _, err := Acquire(filepath.Join(t.TempDir(), "no")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

// A link in the place of the lock would have another file truncated.
func TestLinkInItsPlace(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, FileName)); err != nil {
		t.Fatal(err)
	}
	if _, err := Acquire(dir); !errors.Is(err, unix.ELOOP) {
		t.Errorf("error is %v", err)
	}
	if text, _ := os.ReadFile(victim); string(text) != "keep" {
		t.Errorf("the linked file has %q", text)
	}
}
