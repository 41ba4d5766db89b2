package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/fakecri"
	"github.com/berth-cri/berth/cri/berthapi"
)

const layerDigest = "sha256:5555556789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// steps is a pull with one layer; told is closed when all was sent.
type steps struct{ told chan struct{} }

func (p *steps) PullProgress(ctx context.Context, ref string, send func(berthapi.Snapshot) error) error {
	for _, l := range []berthapi.Layer{
		{State: berthapi.LayerWaiting},
		{State: berthapi.LayerDownloading, Done: 1_000_000, Total: 4_000_000},
		{State: berthapi.LayerDownloading, Done: 3_000_000, Total: 4_000_000},
		{State: berthapi.LayerUnpacking, Done: 4_000_000, Total: 4_000_000},
	} {
		l.Digest = layerDigest
		if err := send(berthapi.Snapshot{Ref: ref, Layers: []berthapi.Layer{l}}); err != nil {
			return err
		}
	}
	close(p.told)
	<-ctx.Done()
	return nil
}

func imageForPull() *runtimeapi.Image { return &runtimeapi.Image{Id: imageID} }

func TestPullTellsItsProgress(t *testing.T) {
	p := &steps{told: make(chan struct{})}
	s := fakecri.Start(t, fakecri.Options{Progress: p})
	s.AddRemoteImage("busybox:1", imageForPull())
	s.HoldPull(p.told)
	code, out, errOut := berth(t, s, "pull", "busybox:1")
	if code != 0 || out != "busybox:1 is image feed456789abc\n" {
		t.Errorf("exit code %d, output %q", code, out)
	}
	if !strings.Contains(errOut, "5555556789abc: downloading 4MB\n") || !strings.HasSuffix(errOut, "5555556789abc: done 4MB\n") || strings.Count(errOut, "downloading") != 1 || strings.Contains(errOut, "waiting") {
		t.Errorf("progress %q", errOut)
	}
}

func TestPullWithoutProgress(t *testing.T) {
	s := fakecri.Start(t, fakecri.Options{})
	s.AddRemoteImage("busybox:1", imageForPull())
	want(t, "pull -q", wantOK(t, s, "pull", "-q", "busybox:1"), imageID+"\n")
	want(t, "pull -o yaml", wantOK(t, s, "pull", "-o", "yaml", "busybox:1"), "id: "+imageID+"\nimage: busybox:1\n")
	want(t, "pull", wantOK(t, s, "pull", "busybox:1"), "busybox:1 is image feed456789abc\n")
	wantFailure(t, s, 1, []string{`pull image "gone:1": manifest of gone:1 is unknown`}, "pull", "gone:1")
	wantFailure(t, s, 1, []string{`--creds "me" has no password`}, "pull", "--creds", "me", "busybox:1")
}

// The views for a terminal write what moves its cursor; here it is read back.
func TestProgressOnATerminal(t *testing.T) {
	var b strings.Builder
	v := &terminalView{out: &b, ref: "x"}
	v.show(berthapi.Snapshot{Layers: []berthapi.Layer{
		{Digest: layerDigest, State: berthapi.LayerDownloading, Done: 1_000_000, Total: 2_000_000},
		{Digest: "sha256:aaaa", State: berthapi.LayerExists},
	}})
	v.show(berthapi.Snapshot{Layers: []berthapi.Layer{
		{Digest: layerDigest, State: berthapi.LayerUnpacking, Done: 2_000_000, Total: 2_000_000, Resumed: 500_000},
		{Digest: "sha256:aaaa", State: berthapi.LayerExists},
	}})
	half, full := strings.Repeat("=", 15)+strings.Repeat(" ", 15), strings.Repeat("=", 30)
	want(t, "terminal", b.String(),
		"\r\x1b[K5555556789abc  downloading  ["+half+"] 1MB/2MB\n\r\x1b[Kaaaa  exists\n"+
			"\x1b[1A\x1b[1A\r\x1b[K5555556789abc  unpacking    ["+full+"] 2MB/2MB, 500kB of it from before\n\r\x1b[Kaaaa  exists\n")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	b.Reset()
	v.idle(ctx)
	if !strings.Contains(b.String(), "pulling x") || !strings.HasSuffix(b.String(), clearLine) {
		t.Errorf("spinner %q", b.String())
	}
}

func TestUndoTakesEverythingBackOnce(t *testing.T) {
	var u undo
	var done []string
	step := func(name string, err error) {
		u.add(name, func(ctx context.Context) error {
			done = append(done, name)
			return errorsJoin(ctx.Err(), err)
		})
	}
	step("first", nil)
	step("second", io.ErrUnexpectedEOF)
	step("third", nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := u.run(ctx)
	if err == nil || err.Error() != "second: unexpected EOF" {
		t.Errorf("error %v", err)
	}
	if err := u.run(ctx); err != nil {
		t.Errorf("the second time: %v", err)
	}
	want(t, "order", strings.Join(done, " "), "third second first")
}

func errorsJoin(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func TestRemoveLogDirectoryIsIdempotent(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := removeLogDirectory(dir); err != nil {
			t.Error(err)
		}
	}
}
