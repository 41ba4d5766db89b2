package main

import (
	"os"
	"testing"
)

func TestPSSCountsOnlyTheNamedProcesses(t *testing.T) {
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	mine, err := pss([]string{string(comm[:len(comm)-1])})
	if err != nil || mine <= 0 {
		t.Errorf("own memory: %v MiB, %v", mine, err)
	}
	none, err := pss([]string{"no such name"})
	if err != nil || none != 0 {
		t.Errorf("memory of no process: %v MiB, %v", none, err)
	}
}

func TestProcessesAreKnownByNameAndCommandLine(t *testing.T) {
	if !isOneOf([]string{"containerd-shim-runc-v2"}, "containerd-shim", "") {
		t.Error("a name of more than 15 bytes did not match its cut form")
	}
	if isOneOf([]string{"containerd"}, "containerd-shim", "") {
		t.Error("a prefix matched")
	}
	if !isOneOf([]string{"berthd@/tmp/a"}, "berthd", "berthd\x00--root\x00/tmp/a/lib") {
		t.Error("a process with the text did not match")
	}
	if isOneOf([]string{"berthd@/tmp/a"}, "berthd", "berthd\x00--root\x00/tmp/b/lib") {
		t.Error("a process without the text matched")
	}
}

func TestPSSOfARollup(t *testing.T) {
	rollup := "00400000-7ffd [rollup]\nRss:    2000 kB\nPss:    1234 kB\nPss_Dirty: 9 kB\n"
	if got := pssOf([]byte(rollup)); got != 1234 {
		t.Errorf("got %v, want 1234", got)
	}
}
