package content

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

func openStore(t *testing.T, dir, boot string) *Store {
	t.Helper()
	scratch := filepath.Join(dir, "scratch")
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := Open(filepath.Join(dir, "blobs"), scratch, boot, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, body []byte) digest.Digest {
	t.Helper()
	w, err := s.Writer(digest.FromBytes(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	d, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestWhatIsPutIsRead(t *testing.T) {
	s := openStore(t, t.TempDir(), "boot")
	d := put(t, s, []byte("a layer"))
	b, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := s.Delete(d); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(b.Reader(d))
	if err != nil || string(got) != "a layer" || b.Size() != 7 {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := s.Open(d); !errors.Is(err, errdefs.ErrNotFound) || s.Has(d) {
		t.Errorf("after its removal: %v", err)
	}
	if err := s.Delete(d); err != nil {
		t.Errorf("to remove it again: %v", err)
	}
	if bytes, n := s.Usage(); bytes != 0 || n != 0 {
		t.Errorf("%d bytes of %d blobs", bytes, n)
	}
	for _, bad := range []digest.Digest{"", "sha256:../../x", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if _, err := s.Open(bad); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestWrongContentIsNotKept(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, "boot")
	for name, c := range map[string]struct {
		body string
		size int64
	}{"other": {"abd", 3}, "short": {"ab", 3}, "long": {"abcd", 3}, "short, size unknown": {"ab", -1}} {
		w, err := s.Writer(digest.FromString("abc"), c.size)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write([]byte(c.body))
		if err == nil {
			_, err = w.Commit()
		}
		w.Abort()
		if !errors.Is(err, ErrCorrupt) || !errors.Is(err, errdefs.ErrDataLoss) {
			t.Errorf("%s: %v", name, err)
		}
	}
	list, err := s.List()
	left, rerr := os.ReadDir(filepath.Join(dir, "scratch"))
	if len(list) != 0 || err != nil || rerr != nil || len(left) != 0 {
		t.Errorf("left: %v, %v, %v, %v", list, err, left, rerr)
	}
}

// TestPowerLoss has the machine go down with blobs that were not synced, of which the
// disk has kept some as they were and some not.
func TestPowerLoss(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, "boot 1")
	large := bytes.Repeat([]byte("x"), smallBlob+1)
	synced := put(t, s, append([]byte("synced"), large...))
	if n, err := s.Sync(context.Background()); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	whole, torn, unknown := put(t, s, []byte("whole")), put(t, s, []byte("torn")), put(t, s, large)
	if err := os.WriteFile(s.Path(torn), []byte("to\x00\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A restart of the process alone changes nothing.
	if s = openStore(t, dir, "boot 1"); !s.Has(unknown) {
		t.Error("a restart has lost a blob")
	}
	s = openStore(t, dir, "boot 2")
	for d, want := range map[digest.Digest]bool{synced: true, whole: true, torn: false, unknown: false} {
		if s.Has(d) != want {
			t.Errorf("%s is there: %v", d, !want)
		}
	}
	if info, err := s.Stat(synced); err != nil || !info.Synced || info.Size != int64(len(large))+6 {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestDamageIsFound(t *testing.T) {
	s := openStore(t, t.TempDir(), "boot")
	d := put(t, s, []byte("a layer"))
	if err := s.Verify(d); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(s.Path(d), []byte("a lawer"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(d); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	b, err := s.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := io.Copy(io.Discard, b.Reader(d)); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

func TestAdoptMoves(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, "boot")
	for range 2 {
		path := filepath.Join(dir, "partial")
		if err := os.WriteFile(path, []byte("a layer"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Adopt(path, digest.FromString("a layer")); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
	if err := s.Verify(digest.FromString("a layer")); err != nil {
		t.Error(err)
	}
	if _, n := s.Usage(); n != 1 {
		t.Errorf("%d blobs", n)
	}
}
