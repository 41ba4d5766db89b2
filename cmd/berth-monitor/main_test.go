package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// asProgram makes the test's binary the monitor's program.
const asProgram = "BERTH_TEST_MONITOR"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// monitor runs the program; what stage one opens for readiness is its third descriptor.
func monitor(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

func TestVersion(t *testing.T) {
	out, code := monitor(t, "version")
	if code != 0 || !strings.HasPrefix(out, "berth-monitor dev, protocol ") {
		t.Errorf("exit code %d, output %q", code, out)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"serve"}, {"version", "now"}, {"frob"}, {"serve", "a", "b", "c"}} {
		if out, code := monitor(t, args...); code != 2 || !strings.HasPrefix(out, "usage: ") {
			t.Errorf("%q: exit code %d, output %q", args, code, out)
		}
	}
}

func TestServeWithoutADirectory(t *testing.T) {
	out, code := monitor(t, "serve", filepath.Join(t.TempDir(), "none"))
	if code != 1 || !strings.Contains(out, "no such file or directory") {
		t.Errorf("exit code %d, output %q", code, out)
	}
}

func TestOneMonitorOfADirectory(t *testing.T) {
	dir := t.TempDir()
	first, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	lock := os.NewFile(uintptr(first), "lock")
	if _, err := lockDir(dir); err == nil || !strings.Contains(err.Error(), "another monitor serves "+dir) {
		t.Errorf("error is %v", err)
	}
	lock.Close()
	second, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	os.NewFile(uintptr(second), "lock").Close()
}

func TestLogBeginsAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), protocol.LogName)
	for _, size := range []int{10, maxLog + 1} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		log, err := openLog(path)
		if err != nil {
			t.Fatal(err)
		}
		st, err := log.Stat()
		log.Close()
		if want := int64(size % maxLog); err != nil || size < maxLog && st.Size() != want || size > maxLog && st.Size() != 0 {
			t.Errorf("a log of %d bytes has now %d, %v", size, st.Size(), err)
		}
	}
	if st, err := os.Stat(path + ".old"); err != nil || st.Size() != maxLog+1 {
		t.Errorf("the old one: %v, %v", st, err)
	}
}
