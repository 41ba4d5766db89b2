package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/cmd/berth/internal/fakecri"
	"github.com/berth-cri/berth/cri/berthapi"
	"github.com/berth-cri/berth/imageservice/imagetest"
)

// fakeFiles is the files of one container.
type fakeFiles struct {
	changes []berthapi.Change
	commit  berthapi.CommitRequest // the last one
	copied  berthapi.CopyRequest   // the last one
	archive []byte
}

func (f *fakeFiles) CopyOut(_ context.Context, req berthapi.CopyRequest, archive io.Writer) error {
	f.copied = req
	_, err := archive.Write(f.archive)
	return err
}

func (f *fakeFiles) CopyIn(_ context.Context, req berthapi.CopyRequest, archive io.Reader) (err error) {
	f.copied = req
	f.archive, err = io.ReadAll(archive)
	return err
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

func TestCopy(t *testing.T) {
	files := &fakeFiles{}
	s := nodeWith(t, fakecri.Options{Containers: files})
	dir := t.TempDir()
	from := filepath.Join(dir, "from")
	if out, err := exec.Command("sh", "-ec", "mkdir -p "+from+"/sub; cd "+from+"; echo x > f; chmod 4750 f; ln -s f l; mkfifo p; touch -d @1000.5 f sub").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	code, _, errOut := berth(t, s, "cp", from, "nginx:/etc")
	if code != 0 || !strings.Contains(errOut, "left out") {
		t.Errorf("exit code %d, errors %q", code, errOut)
	}
	if want := (berthapi.CopyRequest{ContainerID: webID, Path: "/etc", Top: "from"}); files.copied != want {
		t.Errorf("asked for %+v", files.copied)
	}
	for _, c := range []struct{ to, at string }{{dir + "/new", "new"}, {dir + "/there", "there/from"}} {
		if err := os.Mkdir(filepath.Join(dir, "there"), 0o755); err != nil && c.at != "new" && !os.IsExist(err) {
			t.Fatal(err)
		}
		wantOK(t, s, "cp", "nginx:/etc/from", c.to)
		info, err := os.Stat(filepath.Join(dir, c.at, "f"))
		if err != nil || info.Mode() != 0o750 || info.ModTime().UnixNano() != 1000_500_000_000 {
			t.Errorf("the file is %v, %v", info, err)
		}
		if target, _ := os.Readlink(filepath.Join(dir, c.at, "l")); target != "f" {
			t.Errorf("the link leads to %q", target)
		}
	}
	want(t, "an archive", wantOK(t, s, "cp", "web-0/nginx:/etc/from", "-"), string(files.archive))
	wantFailure(t, s, 1, []string{"one of the two"}, "cp", "a:b", "c:d")
	wantFailure(t, s, 1, []string{"one of the two"}, "cp", "./a:b", "/d")
	wantFailure(t, s, 1, []string{"no such file"}, "cp", dir+"/none", "nginx:/")
}

// An archive of a hostile container writes nothing but what was asked for, where it was.
func TestCopyOfAHostileContainer(t *testing.T) {
	files := &fakeFiles{}
	s := nodeWith(t, fakecri.Options{Containers: files})
	for what, entries := range map[string][]imagetest.Entry{
		"a name":          {imagetest.File("../evil", "x", 0o644)},
		"another name":    {imagetest.File("evil", "x", 0o644)},
		"behind a link":   {imagetest.Dir("d", 0o755), imagetest.Symlink("d/l", "../.."), imagetest.File("d/l/evil", "x", 0o644)},
		"an absolute one": {imagetest.Dir("d", 0o755), imagetest.Symlink("d/l", "/tmp"), imagetest.File("d/l/evil", "x", 0o644)},
		"a hard link":     {imagetest.Dir("d", 0o755), imagetest.Hardlink("d/l", "../../secret")},
	} {
		dir := t.TempDir()
		to := filepath.Join(dir, "to")
		if err := os.Mkdir(to, 0o755); err != nil {
			t.Fatal(err)
		}
		files.archive = imagetest.Tar(entries...)
		if code, _, errOut := berth(t, s, "cp", "nginx:/d", to); code != 1 {
			t.Errorf("%s: exit code %d, %s", what, code, errOut)
		}
		for _, path := range []string{dir + "/evil", to + "/evil", "/tmp/evil"} {
			if _, err := os.Lstat(path); err == nil {
				t.Errorf("%s: there is %s", what, path)
			}
		}
	}
	dir := t.TempDir()
	files.archive = imagetest.Tar(imagetest.Dir("d", 0o755), imagetest.Device("d/null", '3', 1, 3), imagetest.File("d/su", "x", 0o6755))
	if _, _, errOut := berth(t, s, "cp", "nginx:/d", dir); !strings.Contains(errOut, "d/null") {
		t.Errorf("of the device is said %q", errOut)
	}
	if _, err := os.Lstat(dir + "/d/null"); err == nil {
		t.Error("there is a device")
	}
	if info, err := os.Stat(dir + "/d/su"); err != nil || info.Mode() != 0o755 {
		t.Errorf("the program is %v, %v", info, err)
	}
}
