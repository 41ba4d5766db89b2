package testnode

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"github.com/berth-cri/berth/config"
)

// What is laid out has to be what berthd and the plugins read.
func TestLayOut(t *testing.T) {
	dir := t.TempDir()
	n, err := New(Options{Dir: dir, Bin: "/opt/bin", Bridge: "tn0", Subnet: 0xfe, Config: "images:\n  parallelLayers: 7\n"})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := config.Load(config.Source{File: n.configFile()})
	if err != nil {
		t.Fatal(err)
	}
	c := loaded.Config
	if c.Images.ParallelLayers != 7 || len(c.Network.ConfDirs) != 1 || c.Network.ConfDirs[0] != n.NetworkDir() || c.Network.BinDirs[0] != "/opt/bin/cni" {
		t.Errorf("configuration %+v", c)
	}
	list, err := libcni.ConfListFromFile(filepath.Join(n.NetworkDir(), "10-test.conflist"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(list.Bytes)
	if list.Name != "tn0" || len(list.Plugins) != 2 || !strings.Contains(text, `"10.250.254.0/24"`) || !strings.Contains(text, `"fd00:10:250:fe::/64"`) {
		t.Errorf("network %s", text)
	}
}

func TestCloseOfWhatNeverStarted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	n, err := New(Options{Dir: dir, Bin: "/opt/bin", Bridge: "tn0"})
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := n.MonitorPID(); pid != 0 || err != nil {
		t.Errorf("monitor %d, %v", pid, err)
	}
	if mounts, err := n.Mounts(); len(mounts) != 0 || err != nil {
		t.Errorf("mounts %v, %v", mounts, err)
	}
	if err := n.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
}
