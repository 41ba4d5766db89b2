package monitor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// install makes another build of the program, which goes by another path.
func install(t *testing.T, change func([]byte) []byte) string {
	t.Helper()
	data, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "berth-monitor")
	if err := os.WriteFile(path, change(data), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// reconnect is a restart of berthd with another program installed.
func (e *env) reconnect(path string) {
	e.t.Helper()
	e.disconnect()
	before := binary
	binary = path
	defer func() { binary = before }()
	e.connect()
}

func (e *env) runs(path string) bool {
	e.t.Helper()
	same, err := sameProgram(fmt.Sprintf("/proc/%d/exe", e.pid()), path)
	if err != nil {
		e.t.Fatal(err)
	}
	return same
}

// A berthd that starts with another monitor installed upgrades the one that runs.
func TestConnectUpgrades(t *testing.T) {
	e := newEnv(t)
	const lines = 20000
	writes := e.start(fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo $i; i=$((i+1)); done; exit 14", lines))
	pid := e.pid()
	next := install(t, func(b []byte) []byte { return append(b, "another build"...) })
	patched := install(t, func(b []byte) []byte { return append(b, "another one, ."...)[:len(b)+len("another build")] })
	for _, path := range []string{next, patched, next, next} {
		e.reconnect(path)
		if got := e.pid(); got != pid {
			t.Errorf("process %d became %d", pid, got)
		}
		if !e.runs(path) {
			t.Error("it does not run the installed program")
		}
	}
	if exit := e.waitExit(writes.ID); exit.Code != 14 {
		t.Error(dump(exit))
	}
	var want strings.Builder
	for i := range lines {
		fmt.Fprintln(&want, i)
	}
	if got := logText(t, writes.LogPath); got != want.String() {
		t.Errorf("log has %d bytes, want %d", len(got), want.Len())
	}
}

// A program that cannot be upgraded to leaves the one of before at work.
func TestConnectWithABrokenProgram(t *testing.T) {
	e := newEnv(t)
	r := e.start("sleep 1000")
	pid := e.pid()
	broken := install(t, func(b []byte) []byte { return b[:len(b)/3] })
	for _, path := range []string{broken, "/bin/true", filepath.Join(t.TempDir(), "missing")} {
		e.reconnect(path)
		if got := e.pid(); got != pid {
			t.Errorf("process %d became %d", pid, got)
		}
		if !e.runs(binary) {
			t.Error("it runs another program")
		}
		if _, _, exit := e.exec(r.ID, "", "true"); exit.Code != 0 {
			t.Error(dump(exit))
		}
	}
}
