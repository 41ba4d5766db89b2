package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/cmd/berth/internal/fakecri"
	"github.com/berth-cri/berth/cri/berthapi"
)

// fakeFiles is the files of one container.
type fakeFiles struct {
	changes []berthapi.Change
}

func (f *fakeFiles) Diff(_ context.Context, req berthapi.DiffRequest, send func(berthapi.Change) error) error {
	if req.ContainerID != webID {
		return fmt.Errorf("container %q: %w", req.ContainerID, errdefs.ErrNotFound)
	}
	for _, c := range f.changes {
		if err := send(c); err != nil {
			return err
		}
	}
	return nil
}

func TestDiff(t *testing.T) {
	s := nodeWith(t, fakecri.Options{Containers: &fakeFiles{changes: []berthapi.Change{
		{Kind: "changed", Path: "/etc"}, {Kind: "added", Path: "/etc/a b"}, {Kind: "deleted", Path: "/etc/\x1b[2J"},
	}}})
	want(t, "diff", wantOK(t, s, "diff", "nginx"), "C /etc\nA /etc/a b\nD \"/etc/\\x1b[2J\"\n")
	want(t, "diff", wantOK(t, s, "diff", "-o", "yaml", "web-0/nginx"), "- kind: changed\n  path: /etc\n- kind: added\n  path: /etc/a b\n- kind: deleted\n  path: \"/etc/\\e[2J\"\n")
	wantFailure(t, s, 1, []string{"no container", "nobody"}, "diff", "nobody")
	wantFailure(t, node(t), 1, []string{"does not give access", "berth version"}, "diff", "nginx")
}
