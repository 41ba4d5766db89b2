package main

import (
	"context"
	"fmt"
	"reflect"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/cmd/berth/internal/fakecri"
	"github.com/berth-cri/berth/cri/berthapi"
)

// fakeFiles is the files of one container.
type fakeFiles struct {
	changes []berthapi.Change
	commit  berthapi.CommitRequest // the last one
}

func (f *fakeFiles) Commit(_ context.Context, req berthapi.CommitRequest) (berthapi.Committed, error) {
	f.commit = req
	return berthapi.Committed{ID: imageID}, nil
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

func TestCommit(t *testing.T) {
	files := &fakeFiles{}
	s := nodeWith(t, fakecri.Options{Containers: files})
	got := wantOK(t, s, "commit", "--author", "me", "--message", "why", "--change", "USER 1", "--change", `CMD ["a", "b"]`, "--no-pause", "-t", "90s", "nginx", "new:1")
	want(t, "commit", got, imageID+"\n")
	asked := berthapi.CommitRequest{
		ContainerID: webID, Name: "new:1", Author: "me", Message: "why", Changes: []string{"USER 1", `CMD ["a", "b"]`}, Running: true, Seconds: 90,
	}
	if !reflect.DeepEqual(files.commit, asked) {
		t.Errorf("asked for %+v", files.commit)
	}
	wantFailure(t, s, 1, []string{"takes a container and the name of the new image"}, "commit", "nginx")
}
