package runtimeservice

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/runtimeservice/monitor"
	"github.com/berth-cri/berth/runtimeservice/record"
)

// fillDisk makes every write to a record that there is fail with ENOSPC.
func (n *node) fillDisk() {
	n.t.Helper()
	for _, dir := range []string{"sandboxes", "containers"} {
		paths, err := filepath.Glob(filepath.Join(n.root, dir, "*.json"))
		if err != nil || len(paths) == 0 {
			n.t.Fatalf("records in %s: %v, %v", dir, paths, err)
		}
		for _, path := range paths {
			if err := errors.Join(os.Remove(path), os.Symlink("/dev/full", path)); err != nil {
				n.t.Fatal(err)
			}
		}
	}
}

// Removing is what makes room: it must not need any.
func TestRemovalOnAFullDisk(t *testing.T) {
	for name, remove := range map[string]func(s *Service, sandbox, container string) error{
		"the pod at once": func(s *Service, sandbox, _ string) error {
			return s.RemovePodSandbox(t.Context(), sandbox)
		},
		"step by step": func(s *Service, sandbox, container string) error {
			return errors.Join(
				s.StopContainer(t.Context(), container, 0), s.RemoveContainer(t.Context(), container),
				s.StopPodSandbox(t.Context(), sandbox), s.RemovePodSandbox(t.Context(), sandbox))
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			s, _ := n.start()
			sandbox := mustRun(t, s, podConfig("web"))
			container := mustStart(t, s, sandbox, "app")
			n.fillDisk()
			if err := remove(s, sandbox, container); err != nil {
				t.Fatal(err)
			}
			n.assertEmpty()
		})
	}
}

// What is noted late, when the sandbox is gone, must not bring its record back.
func TestRemovedSandboxKeepsNoRecord(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	config := podConfig("web")
	id := mustRun(t, s, config)
	sb, _ := s.sandboxes.get(id)
	if err := s.RemovePodSandbox(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	s.noteFailure(sb, record.Step{Stage: stagePull}, errBoom)
	s.podInitExited(sb, monitor.Exit{ID: id})
	if err := sb.update(func(rec *record.Sandbox) { rec.Delivered = true }); !errdefs.IsNotFound(err) {
		t.Errorf("update of a removed sandbox: %v", err)
	}
	n.assertEmpty()
}

// What a failed ADD left is the network's: a plugin that hangs must not be waited
// for a second time.
func TestFailedAttachIsLeftToTheNetwork(t *testing.T) {
	n := newNode(t)
	s, _ := n.start()
	n.on("attach", boom)
	n.on("detach", func(context.Context, string) error {
		t.Error("detached once more")
		return nil
	})
	if _, err := s.RunPodSandbox(t.Context(), podConfig("web"), ""); !errors.Is(err, errBoom) {
		t.Fatalf("error is %v", err)
	}
	if len(n.network.released) != 1 {
		t.Errorf("released %v", n.network.released)
	}
	n.assertEmpty()
}
