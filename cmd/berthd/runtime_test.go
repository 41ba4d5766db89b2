package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/config"
)

func executable(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMonitorBinary(t *testing.T) {
	dir := t.TempDir()
	inPath := executable(t, filepath.Join(dir, monitorName))
	configured := executable(t, filepath.Join(dir, "another"))

	if got, err := monitorBinary(configured); err != nil || got != configured {
		t.Errorf("configured: %q, %v", got, err)
	}
	if _, err := monitorBinary(dir + "/no"); err == nil || !strings.Contains(err.Error(), "runtime.monitorBinary") || !strings.Contains(err.Error(), dir+"/no") {
		t.Errorf("configured and missing: %v", err)
	}
	t.Setenv("PATH", dir)
	if got, err := monitorBinary(""); err != nil || got != inPath {
		t.Errorf("in $PATH: %q, %v", got, err)
	}
	t.Setenv("PATH", "/nonexistent")
	if _, err := monitorBinary(""); err == nil || !strings.Contains(err.Error(), "is neither") {
		t.Errorf("nowhere: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	beside := executable(t, filepath.Join(filepath.Dir(self), monitorName))
	defer os.Remove(beside)
	t.Setenv("PATH", dir)
	if got, err := monitorBinary(""); err != nil || got != beside {
		t.Errorf("beside: %q, %v", got, err)
	}
}

func TestSystemdCgroups(t *testing.T) {
	for _, c := range []struct {
		setting          string
		running, unified bool
		want, refused    bool
	}{
		{config.CgroupDriverCgroupfs, true, true, false, false},
		{config.CgroupDriverCgroupfs, false, false, false, false},
		{config.CgroupDriverAuto, true, true, true, false},
		{config.CgroupDriverAuto, true, false, false, false},
		{config.CgroupDriverAuto, false, true, false, false},
		{config.CgroupDriverSystemd, true, true, true, false},
		{config.CgroupDriverSystemd, true, false, false, true},
		{config.CgroupDriverSystemd, false, true, false, true},
	} {
		got, err := systemdCgroups(c.setting, c.running, c.unified)
		if got != c.want || errdefs.IsFailedPrecondition(err) != c.refused || (err != nil) != c.refused {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
	if isUnified(t.TempDir()) {
		t.Error("a temporary directory is taken for a cgroup file system")
	}
}
