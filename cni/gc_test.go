package cni

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
)

// collected is what plugins hold after a GC by n.
func collected(t *testing.T, h *host, n *Networks) []string {
	t.Helper()
	if err := n.collect(context.Background()); err != nil {
		t.Fatal(err)
	}
	return h.held()
}

func TestGCKeepsTheAttachmentsOfEveryInstance(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.1.0", h.main(nil))
	one := h.networks()
	opts := h.options()
	opts.StateDir = t.TempDir()
	two := New(opts)
	attach(t, one, somePod("pod-of-one"))
	attach(t, two, somePod("pod-of-two"))
	stale := filepath.Join(h.plugins, "fake-main.stale.eth0")
	for _, n := range []*Networks{one, two} {
		if err := os.WriteFile(stale, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := collected(t, h, n); !slices.Equal(got, []string{"fake-main.pod-of-one.eth0", "fake-main.pod-of-two.eth0"}) {
			t.Errorf("held %v", got)
		}
	}
	// An instance that is down still has its pods; one whose directory is gone has not.
	if err := os.RemoveAll(opts.StateDir); err != nil {
		t.Fatal(err)
	}
	if got := collected(t, h, h.networks()); !slices.Equal(got, []string{"fake-main.pod-of-one.eth0"}) {
		t.Errorf("held %v", got)
	}
}

func TestGCTakesReleasedPods(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.1.0", h.main(nil))
	n := h.networks()
	attach(t, n, somePod("pod1"))
	attach(t, n, somePod("pod2"))
	n.Release(context.Background(), "pod1")
	if got := collected(t, h, n); !slices.Equal(got, []string{"fake-main.pod2.eth0"}) {
		t.Errorf("held %v", got)
	}
	if len(h.debts()) != 2 {
		t.Error("only a DEL pays a debt")
	}
}

func TestGCLeavesANetworkAlone(t *testing.T) {
	for name, prepare := range map[string]func(h *host){
		"of another runtime": func(h *host) {
			dir := filepath.Join(h.peers, "results")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				h.t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "shop-abc-eth0"), nil, 0o600); err != nil {
				h.t.Fatal(err)
			}
		},
		"before CNI 1.1": func(h *host) { h.write("10.conflist", "shop", "1.0.0", h.main(nil)) },
		"that declines": func(h *host) {
			h.writeRaw("10.conflist", `{"cniVersion":"1.1.0","name":"shop","disableGC":true,"plugins":[{"type":"fake-main","fake":{"dir":"`+h.plugins+`"}}]}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, "fake-main")
			h.write("10.conflist", "shop", "1.1.0", h.main(nil))
			prepare(h)
			stale := filepath.Join(h.plugins, "fake-main.stale.eth0")
			if err := os.WriteFile(stale, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if got := collected(t, h, h.networks()); len(got) != 1 {
				t.Errorf("held %v", got)
			}
		})
	}
}

func TestGCAndADDExcludeEachOther(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.1.0", h.main(map[string]string{"ADD": "slow", "GC": "slow"}))
	one := h.networks()
	opts := h.options()
	opts.StateDir = t.TempDir()
	two := New(opts)
	added := make(chan error, 1)
	go func() {
		_, err := two.Attach(context.Background(), somePod("pod1"))
		added <- err
	}()
	eventually(t, "the plugin adds", func() bool { return len(h.steps()) == 1 })
	if err := one.begin(); err != nil {
		t.Fatal(err)
	}
	if err := one.collect(context.Background()); !errdefs.IsUnavailable(err) {
		t.Errorf("GC beside an ADD: %v", err)
	}
	if err := <-added; err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- one.collect(context.Background()) }()
	eventually(t, "the plugin collects", func() bool { return len(h.steps()) == 2 })
	attach(t, two, somePod("pod2"))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantSteps(t, h, "fake-main ADD", "fake-main GC", "fake-main ADD")
	if held := h.held(); len(held) != 2 {
		t.Errorf("held %v", held)
	}
}

func TestRunCollectsAtStart(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.1.0", h.main(nil))
	stale := filepath.Join(h.plugins, "fake-main.stale.eth0")
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	running(t, h.networks())
	eventually(t, "the stale attachment is gone", func() bool { return len(h.held()) == 0 })
}
