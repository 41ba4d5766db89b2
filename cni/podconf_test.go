package cni

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// A pod can have directories of its own for its network. Its DEL needs them no more.
func TestNetworkOfThePodsOwn(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.0.0", h.main(nil))
	n := h.networks()
	pod := somePod("pod1")
	pod.ConfDirs = []string{t.TempDir()}
	_, err := n.Attach(context.Background(), pod)
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), pod.ConfDirs[0]) {
		t.Errorf("without a configuration: %v", err)
	}
	h.write("90.conflist", "mall", "1.0.0", h.main(nil))
	file := filepath.Join(pod.ConfDirs[0], "10.conflist")
	if err := os.Rename(filepath.Join(h.conf, "90.conflist"), file); err != nil {
		t.Fatal(err)
	}
	if attached := attach(t, n, pod); attached.Network != "mall" {
		t.Errorf("attached to %q", attached.Network)
	}
	if attached := attach(t, n, somePod("pod2")); attached.Network != "shop" {
		t.Errorf("another pod is attached to %q", attached.Network)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := n.Detach(context.Background(), "pod1"); err != nil {
		t.Error(err)
	}
	wantSteps(t, h, "fake-main ADD", "fake-main ADD", "fake-main DEL")
}
