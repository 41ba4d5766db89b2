package cni_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-cri/berth/cni"
	"github.com/berth-cri/berth/runtimeservice/namespaces"
)

// ownPlugins gives the node's networks a directory of plugins that the test may change.
func (n *node) ownPlugins() (dir string) {
	n.t.Helper()
	built, err := buildPlugins()
	if err != nil {
		n.t.Fatal(err)
	}
	programs, err := filepath.Glob(filepath.Join(built, "*"))
	if err != nil {
		n.t.Fatal(err)
	}
	dir = filepath.Join(n.dir, "bin")
	errs := []error{os.Mkdir(dir, 0o755)}
	for _, program := range programs {
		errs = append(errs, os.Symlink(program, filepath.Join(dir, filepath.Base(program))))
	}
	if err := errors.Join(errs...); err != nil {
		n.t.Fatal(err)
	}
	n.open(dir)
	return dir
}

// open makes the node's networks anew, as a restart does.
func (n *node) open(bin string) {
	n.networks = cni.New(cni.Options{
		ConfDirs: []string{filepath.Join(n.dir, "net.d")}, BinDirs: []string{bin}, StateDir: filepath.Join(n.dir, "state"),
		RegistryDir: filepath.Join(n.dir, "registry"), PeerCacheDir: filepath.Join(n.dir, "peers"),
	})
}

func (n *node) held() []string {
	n.t.Helper()
	held, err := filepath.Glob(filepath.Join(n.dir, "state", "netns", "*"))
	if err != nil {
		n.t.Fatal(err)
	}
	return held
}

// TestLateDELLeavesNoRules: the plugins are gone when the pod is removed. Rules that the bridge
// plugin finds through the pod's interface only must go when the debt is paid, with either
// backend of it.
func TestLateDELLeavesNoRules(t *testing.T) {
	for _, backend := range []string{"iptables", "nftables"} {
		t.Run(backend, func(t *testing.T) {
			n := newNode(t, func(bridge, _ map[string]any) { bridge["ipMasqBackend"] = backend })
			bin := n.ownPlugins()
			p := n.attach("pod-late")
			if err := os.Rename(bin, bin+".off"); err != nil {
				t.Fatal(err)
			}
			for range 2 { // a second call must not lose what the first one holds
				if err := n.networks.Detach(t.Context(), p.ID); err == nil || !strings.Contains(err.Error(), `"bridge"`) {
					t.Errorf("detach without plugins: %v", err)
				}
			}
			n.networks.Release(t.Context(), p.ID)
			if err := namespaces.Remove(context.Background(), filepath.Join(n.dir, p.ID)); err != nil {
				t.Fatal(err)
			}
			if held := n.held(); len(held) != 1 {
				t.Errorf("held: %q", held)
			}
			if err := os.Rename(bin+".off", bin); err != nil {
				t.Fatal(err)
			}
			n.open(bin)
			n.in(n.netns, func() error {
				_, err := n.networks.Pods() // takes the debts up
				cni.PayDue(context.Background(), n.networks)
				return err
			})
			if left := n.leftovers(p.ID); left != nil {
				t.Errorf("left: %q", left)
			}
			for _, program := range []string{"iptables-save", "ip6tables-save"} {
				n.in(n.netns, func() error {
					rules, err := exec.Command(program).Output()
					if strings.Contains(string(rules), p.ID) {
						t.Errorf("rules are left:\n%s", rules)
					}
					return err
				})
			}
			if held := n.held(); held != nil {
				t.Errorf("still held: %q", held)
			}
		})
	}
}

// TestHoldOfAnEarlierBoot: of a hold only the file survives a reboot.
func TestHoldOfAnEarlierBoot(t *testing.T) {
	n := newNode(t, nil)
	bin := n.ownPlugins()
	p := n.attach("pod-booted")
	if err := os.Rename(bin, bin+".off"); err != nil {
		t.Fatal(err)
	}
	if err := n.networks.Detach(t.Context(), p.ID); err == nil {
		t.Error("detached without plugins")
	}
	if err := namespaces.Remove(context.Background(), filepath.Join(n.dir, p.ID)); err != nil {
		t.Fatal(err)
	}
	held := n.held()
	if len(held) != 1 {
		t.Fatalf("held: %q", held)
	}
	if err := cni.DropHolds(n.networks); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(held[0], nil, 0o400), os.Rename(bin+".off", bin)); err != nil {
		t.Fatal(err)
	}
	n.detach(p)
	if held := n.held(); held != nil {
		t.Errorf("still held: %q", held)
	}
	if pods, err := n.networks.Pods(); len(pods) != 0 || err != nil {
		t.Errorf("debts of %v, %v", pods, err)
	}
}
