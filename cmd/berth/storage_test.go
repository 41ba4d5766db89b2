package main

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/cmd/berth/internal/fakecri"
	"github.com/berth-cri/berth/cri/berthapi"
)

// fakeStorage answers with what it has and remembers the last request.
type fakeStorage struct {
	usage    berthapi.DiskUsage
	findings []berthapi.Finding
	asked    berthapi.CheckRequest
}

func (f *fakeStorage) DiskUsage(context.Context, berthapi.DiskUsageRequest) (berthapi.DiskUsage, error) {
	return f.usage, nil
}

func (f *fakeStorage) Check(_ context.Context, req berthapi.CheckRequest, send func(berthapi.Finding) error) error {
	f.asked = req
	for _, finding := range f.findings {
		if err := send(finding); err != nil {
			return err
		}
	}
	if len(req.Images) > 0 && req.Images[0] == "none" {
		return fmt.Errorf("image %q: %w", "none", errdefs.ErrNotFound)
	}
	return nil
}

func someUsage() berthapi.DiskUsage {
	return berthapi.DiskUsage{
		Items: []berthapi.DiskItem{
			{Kind: "layer", ID: "sha256:" + strings.Repeat("a", 64), Images: []string{"one", "two"}, Shared: true, Bytes: 600_000, Inodes: 60},
			{Kind: "layer", ID: "sha256:" + strings.Repeat("b", 64), Images: []string{"one"}, Bytes: 250_000, Inodes: 3},
			{Kind: "container", ID: strings.Repeat("c", 64), Bytes: 100_000, Inodes: 9},
			{Kind: "orphan", ID: "/var/lib/berth/x", Bytes: 50_000, Inodes: 1},
			{Kind: "log", ID: "/var/log/pods/x", Bytes: 7000, Inodes: 2, Outside: true},
		},
		Filesystems: []berthapi.Filesystem{{Directories: []string{"/var/lib/berth"}, Size: 10_000_000, Available: 4_000_000}},
	}
}

func TestDf(t *testing.T) {
	s := fakecri.Start(t, fakecri.Options{Storage: &fakeStorage{usage: someUsage()}})
	want(t, "df", squeeze(wantOK(t, s, "df")), `SIZE SHARE COUNT INODES WHAT
250kB 25.0% 1 3 layers of one image
600kB 60.0% 1 60 layers of several images
100kB 10.0% 1 9 containers
50kB 5.0% 1 1 orphans
1MB 100.0% 4 73 total
7kB - 1 2 logs (outside)
/var/lib/berth: 4MB of 10MB free
`)
	if all := squeeze(wantOK(t, s, "df", "--all")); !strings.Contains(all, "layer aaaaaaaaaaaaa 600kB 60 yes one, two\n") {
		t.Errorf("%s", all)
	}
	if data := wantOK(t, s, "df", "-o", "json"); !strings.Contains(data, `"shared": true`) || !strings.Contains(data, `"bytes": 600000`) {
		t.Errorf("%s", data)
	}
	if data := wantOK(t, s, "df", "-o", "yaml"); !strings.Contains(data, "kind: orphan") {
		t.Errorf("%s", data)
	}
}

// The bar has the asked width, and each group its share of it.
func TestDiskBar(t *testing.T) {
	groups, total, _ := summarize(someUsage().Items)
	escapes := regexp.MustCompile("\x1b\\[[0-9;]*m")
	for _, width := range []int{1, 7, 40, 80, 251} {
		bar := diskBar(groups, total.bytes, width)
		if n := len([]rune(escapes.ReplaceAllString(bar, ""))); n != width {
			t.Errorf("%d cells, want %d", n, width)
		}
	}
	bar := diskBar(groups, total.bytes, 40)
	for i, cells := range []int{10, 24, 4, 2} {
		if n := strings.Count(bar, paint(i, "█")); n != cells {
			t.Errorf("group %d has %d cells, want %d", i, n, cells)
		}
	}
	// A boundary within a cell shows both sides.
	two := []diskShare{{bytes: 5}, {bytes: 11}}
	if bar := diskBar(two, 16, 2); !strings.Contains(bar, "▋") && !strings.Contains(bar, "▌") {
		t.Errorf("%q", bar)
	}
}

func TestFsck(t *testing.T) {
	fake := &fakeStorage{findings: []berthapi.Finding{
		{Kind: "image", ID: "sha256:" + strings.Repeat("1", 64), State: "intact", Bytes: 10},
		{Kind: "layer", ID: "sha256:" + strings.Repeat("2", 64), State: "repaired", Detail: "fetched again", Images: []string{"one"}, Problems: []string{"bin/sh: content differs"}, Bytes: 990},
	}}
	s := fakecri.Start(t, fakecri.Options{Storage: fake})
	want(t, "fsck", wantOK(t, s, "fsck", "--repair", "one"), `layer 2222222222222: repaired (fetched again), of one
    bin/sh: content differs
1kB read: 1 intact, 1 repaired, 0 unverified, 0 damaged
`)
	if !fake.asked.Repair || len(fake.asked.Images) != 1 || fake.asked.Images[0] != "one" {
		t.Errorf("asked for %+v", fake.asked)
	}
	fake.findings[1].State = "damaged"
	code, out, errOut := berth(t, s, "fsck")
	if code != 1 || !strings.Contains(out, "1 intact, 0 repaired, 0 unverified, 1 damaged") || !strings.Contains(errOut, "--repair") {
		t.Errorf("%d\n%s\n%s", code, out, errOut)
	}
	if code, data, _ := berth(t, s, "fsck", "-o", "json"); code != 1 || !strings.Contains(data, `"state": "damaged"`) {
		t.Errorf("%d %s", code, data)
	}
	if code, _, errOut := berth(t, s, "fsck", "none"); code == 0 || !strings.Contains(errOut, "none") {
		t.Errorf("%d %s", code, errOut)
	}
}

func TestStorageOfAnotherRuntime(t *testing.T) {
	s := fakecri.Start(t, fakecri.Options{})
	for _, command := range []string{"df", "fsck"} {
		if code, _, errOut := berth(t, s, command); code == 0 || !strings.Contains(errOut, "another runtime") {
			t.Errorf("%s: %d %s", command, code, errOut)
		}
	}
}
