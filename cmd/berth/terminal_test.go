package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/cmd/berth/internal/fakecri"
)

// openTerminal makes a pseudo terminal: what is written to person is typed at
// terminal.
func openTerminal(t *testing.T) (person, terminal *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close() })
	fd := int(person.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return person, terminal
}

func setSize(t *testing.T, f *os.File, width, height uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height}); err != nil {
		t.Fatal(err)
	}
}

// onTerminal runs a command line at a terminal and collects what appears there.
func onTerminal(t *testing.T, s *fakecri.Server, terminal, person *os.File, args ...string) (seen *safeBuffer, done chan int) {
	t.Helper()
	seen, done = &safeBuffer{}, make(chan int, 1)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := person.Read(buf)
			seen.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	go func() {
		done <- execute(context.Background(), append([]string{"--address", s.Address}, args...), terminal, terminal, terminal)
	}()
	return seen, done
}

func TestTerminalSizeFollows(t *testing.T) {
	eachTransport(t, func(t *testing.T, options fakecri.Options) {
		s := runtimeWith(t, options)
		person, terminal := openTerminal(t)
		setSize(t, terminal, 100, 30)
		seen, done := onTerminal(t, s, terminal, person, "exec", "-it", "box", "sizes")
		eventually(t, "the first size", func() bool { return strings.Contains(seen.String(), "100x30\n") })
		setSize(t, terminal, 81, 25)
		syscall.Kill(os.Getpid(), syscall.SIGWINCH)
		eventually(t, "the second size", func() bool { return strings.Contains(seen.String(), "81x25\n") })
		if code := <-done; code != 0 {
			t.Errorf("exit code %d, terminal %q", code, seen.String())
		}
	})
}

func TestTerminalIsRawAndPutBack(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	person, terminal := openTerminal(t)
	before := terminalState(t, terminal)
	seen, done := onTerminal(t, s, terminal, person, "exec", "-it", "box", "keys")
	eventually(t, "the program", func() bool { return strings.Contains(seen.String(), "press") })
	if terminalState(t, terminal) == before {
		t.Error("the terminal is not raw")
	}
	// In raw mode Ctrl-C is a key like others.
	if _, err := person.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	if code := <-done; code != 3 {
		t.Errorf("exit code %d, terminal %q", code, seen.String())
	}
	if after := terminalState(t, terminal); after != before {
		t.Errorf("the terminal was left as %+v, was %+v", after, before)
	}
}

func terminalState(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *state
}

func TestPullOnATerminalShowsASpinner(t *testing.T) {
	s := fakecri.Start(t, fakecri.Options{})
	hold := make(chan struct{})
	s.HoldPull(hold)
	s.AddRemoteImage("busybox:1", imageForPull())
	person, terminal := openTerminal(t)
	seen, done := onTerminal(t, s, terminal, person, "pull", "busybox:1")
	eventually(t, "the spinner", func() bool { return strings.Contains(seen.String(), "/ pulling busybox:1") })
	close(hold)
	if code := <-done; code != 0 {
		t.Errorf("exit code %d", code)
	}
	eventually(t, "the result", func() bool {
		return bytes.HasSuffix([]byte(seen.String()), []byte(clearLine+"busybox:1 is image feed456789abc\r\n"))
	})
}
