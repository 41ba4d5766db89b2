package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(&os.PathError{Op: "lstat", Path: path, Err: err})
	}
	return st
}

func mustUnpack(t *testing.T, entries ...imagetest.Entry) (string, Result) {
	t.Helper()
	dir, res, err := unpackTo(t, imagetest.NewLayer(imagetest.Tar(entries...), imagetest.Gzip))
	if err != nil {
		t.Fatal(err)
	}
	return dir, res
}

func TestAttributes(t *testing.T) {
	old := imagetest.Epoch.Add(-1234 * time.Hour).Add(567 * time.Nanosecond)
	pax := func(e imagetest.Entry) imagetest.Entry { e.Format = tar.FormatPAX; return e }
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	dir, res := mustUnpack(t,
		pax(imagetest.Dir(".", 0o750).Owned(7, 8).At(old)),
		pax(imagetest.Dir("d", 0o2775).Owned(1000, 2000).At(old)),
		imagetest.File("d/suid", "program", 0o6755).Owned(1000, 2000).Xattr("security.capability", capability),
		imagetest.File("d/plain", strings.Repeat("x", 5000), 0o600).Owned(65534, 65534).Xattr("user.note", "kept"),
		imagetest.Hardlink("d/same", "d/plain"),
		imagetest.Symlink("d/link", "../target").Owned(3, 4),
		imagetest.Dir("tmp", 0o1777),
		imagetest.Device("null", tar.TypeChar, 1, 3).Owned(5, 6),
		imagetest.File("/absolute/name", "x", 0o644),
	)
	type want struct {
		mode     uint32
		uid, gid uint32
	}
	for name, w := range map[string]want{
		".":        {unix.S_IFDIR | 0o750, 7, 8},
		"d":        {unix.S_IFDIR | 0o2775, 1000, 2000},
		"d/suid":   {unix.S_IFREG | 0o6755, 1000, 2000},
		"d/plain":  {unix.S_IFREG | 0o600, 65534, 65534},
		"d/link":   {unix.S_IFLNK | 0o777, 3, 4},
		"tmp":      {unix.S_IFDIR | 0o1777, 0, 0},
		"null":     {unix.S_IFCHR | 0o660, 5, 6},
		"absolute": {unix.S_IFDIR | 0o755, 0, 0},
	} {
		st := stat(t, filepath.Join(dir, name))
		if st.Mode != w.mode || st.Uid != w.uid || st.Gid != w.gid {
			t.Errorf("%s: mode %o owner %d:%d, want %o %d:%d", name, st.Mode, st.Uid, st.Gid, w.mode, w.uid, w.gid)
		}
		mtime := imagetest.Epoch
		switch name {
		case ".", "d":
			mtime = old
		case "absolute":
			continue
		}
		if got := time.Unix(st.Mtim.Unix()); !got.Equal(mtime) {
			t.Errorf("%s: time %s, want %s", name, got, mtime)
		}
	}
	if a, b := stat(t, filepath.Join(dir, "d/plain")), stat(t, filepath.Join(dir, "d/same")); a.Ino != b.Ino {
		t.Error("hard link is a copy")
	}
	if st := stat(t, filepath.Join(dir, "null")); uint64(st.Rdev) != unix.Mkdev(1, 3) {
		t.Errorf("device %x", st.Rdev)
	}
	buf := make([]byte, 64)
	if n, err := unix.Getxattr(filepath.Join(dir, "d/suid"), "security.capability", buf); err != nil || string(buf[:n]) != capability {
		t.Errorf("capability %q, %v", buf[:max(n, 0)], err)
	}
	if n, err := unix.Getxattr(filepath.Join(dir, "d/plain"), "user.note", buf); err != nil || string(buf[:n]) != "kept" {
		t.Errorf("user attribute %q, %v", buf[:max(n, 0)], err)
	}
	if !slices.Equal(res.Implied, []string{"absolute"}) {
		t.Errorf("implied directories %q", res.Implied)
	}
	if res.Inodes != 9 || res.Bytes != 4*4096+4096+8192+4096 {
		t.Errorf("%+v", res)
	}
}

func TestWhiteouts(t *testing.T) {
	dir, _ := mustUnpack(t,
		imagetest.File("a/.wh.gone", "", 0o644),
		imagetest.File("opaque/.wh..wh..opq", "", 0o644), imagetest.File("opaque/new", "x", 0o644),
		imagetest.File(".wh..wh.plnk", "", 0o644), imagetest.File(".wh..wh.aufs", "", 0o644),
		imagetest.File("kept", "x", 0o644), imagetest.File(".wh.kept", "", 0o644),
		imagetest.File(".wh.anew", "", 0o644), imagetest.Dir("anew", 0o755), imagetest.File("anew/f", "x", 0o644),
		imagetest.Dir("anew2", 0o755), imagetest.File(".wh.anew2", "", 0o644),
		imagetest.File(".wh.back", "", 0o644), imagetest.File("back", "x", 0o644),
	)
	if st := stat(t, filepath.Join(dir, "a/gone")); !IsWhiteout(&st) {
		t.Errorf("whiteout has mode %o device %x", st.Mode, st.Rdev)
	}
	for _, name := range []string{"opaque", "anew", "anew2"} {
		var value [1]byte
		if n, err := unix.Getxattr(filepath.Join(dir, name), opaqueXattr, value[:]); err != nil || n != 1 || value[0] != 'y' {
			t.Errorf("%s is not opaque: %v", name, err)
		}
	}
	for _, name := range []string{"kept", "back", "anew/f", "opaque/new"} {
		if st := stat(t, filepath.Join(dir, name)); st.Mode&unix.S_IFMT != unix.S_IFREG {
			t.Errorf("%s has mode %o", name, st.Mode)
		}
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 6 {
		t.Errorf("%v, %v", list, err)
	}
}

// A path through a link whose target is in a layer below: the target is made.
func TestThroughDanglingLink(t *testing.T) {
	dir, res := mustUnpack(t,
		imagetest.Dir("var", 0o755), imagetest.Symlink("var/run", "/run"), imagetest.File("var/run/app/pid", "1", 0o644),
		imagetest.Symlink("var/lock", "../run/lock"), imagetest.File("var/lock/l", "1", 0o644),
	)
	for _, name := range []string{"run/app/pid", "run/lock/l"} {
		if st := stat(t, filepath.Join(dir, name)); st.Mode&unix.S_IFMT != unix.S_IFREG {
			t.Errorf("%s has mode %o", name, st.Mode)
		}
	}
	if !slices.Contains(res.Implied, "run") {
		t.Errorf("implied directories %q", res.Implied)
	}
}

// A directory that was written to a while ago gives way to a link: what comes after
// goes where the link leads.
func TestThroughReplacedDirectory(t *testing.T) {
	entries := []imagetest.Entry{imagetest.File("a/deep/1", "1", 0o644), imagetest.File("b/deep/1", "1", 0o644)}
	for i := range maxOpenDirs + 10 {
		entries = append(entries, imagetest.File(fmt.Sprintf("d%d/f", i), "f", 0o644), imagetest.File(fmt.Sprintf("a/deep/f%d", i), "f", 0o644))
	}
	entries = append(entries, imagetest.Symlink("a", "b"), imagetest.File("a/deep/2", "2", 0o644), imagetest.File("d0/2", "2", 0o644))
	dir, _ := mustUnpack(t, entries...)
	for _, name := range []string{"b/deep/1", "b/deep/2", "d0/f", "d0/2", fmt.Sprintf("d%d/f", maxOpenDirs+9)} {
		if st := stat(t, filepath.Join(dir, name)); st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 1 {
			t.Errorf("%s has mode %o, size %d", name, st.Mode, st.Size)
		}
	}
	if target, err := os.Readlink(filepath.Join(dir, "a")); err != nil || target != "b" {
		t.Errorf("a leads to %q, %v", target, err)
	}
}

// Files of every size around those of the buffers, one after the other, hold what the
// archive says.
func TestFileSizes(t *testing.T) {
	var entries []imagetest.Entry
	sizes := []int{0, 1, 3000, chunkSize - 1, chunkSize, chunkSize + 1, 2 * chunkSize, 2*chunkSize + 5, 0, 100_000, 200_000}
	content := func(i int) string { return strings.Repeat(string(rune('a'+i%26)), sizes[i%len(sizes)]) }
	const files = 5 * maxBatch
	for i := range files {
		entries = append(entries, imagetest.File(fmt.Sprint(i), content(i), 0o640).Owned(i, i+1))
	}
	dir, _ := mustUnpack(t, entries...)
	for i := range files {
		path := filepath.Join(dir, fmt.Sprint(i))
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content(i) {
			t.Errorf("file %d has %d bytes of %d, or others: %v", i, len(got), len(content(i)), err)
		}
		if st := stat(t, path); st.Mode&0o7777 != 0o640 || st.Uid != uint32(i) || st.Gid != uint32(i+1) || st.Mtim.Sec != imagetest.Epoch.Unix() {
			t.Errorf("file %d has %o %d:%d %d", i, st.Mode, st.Uid, st.Gid, st.Mtim.Sec)
		}
	}
}

func TestCompressions(t *testing.T) {
	archive := imagetest.Tar(imagetest.File("f", strings.Repeat("0123456789", 100_000), 0o644))
	blobs := map[string][]byte{"plain": archive, "empty": {}, "padded": append(bytes.Clone(archive), make([]byte, 1<<20)...)}
	for _, c := range []imagetest.Compression{imagetest.Gzip, imagetest.Zstd} {
		blobs[string(c)] = imagetest.Compress(archive, c)
		blobs[string(c)+" in two members"] = append(imagetest.Compress(archive[:70_000], c), imagetest.Compress(archive[70_000:], c)...)
	}
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}
	blobs["zstd behind a skippable frame"] = append(skippable, blobs["zstd"]...)
	// As zstd:chunked and eStargz end: with an index that is no part of the archive.
	blobs["zstd before skippable frames"] = slices.Concat(blobs["zstd in two members"], skippable, skippable)
	blobs["gzip before an empty member"] = slices.Concat(blobs["gzip in two members"], imagetest.Compress(nil, imagetest.Gzip))
	for name, blob := range blobs {
		t.Run(name, func(t *testing.T) {
			content := archive
			switch name {
			case "empty", "padded":
				content = blob
			}
			l := imagetest.Layer{Blob: blob, DiffID: digest.FromBytes(content)}
			l.Descriptor.Digest, l.Descriptor.Size = digest.FromBytes(blob), int64(len(blob))
			dir, res, err := unpackTo(t, l)
			if err != nil {
				t.Fatal(err)
			}
			if res.TarSize != int64(len(content)) {
				t.Errorf("archive of %d bytes, want %d", res.TarSize, len(content))
			}
			if name == "empty" {
				return
			}
			if st := stat(t, filepath.Join(dir, "f")); st.Size != 1_000_000 {
				t.Errorf("file of %d bytes", st.Size)
			}
		})
	}
}

func TestDamage(t *testing.T) {
	before := runtime.NumGoroutine()
	good := imagetest.NewLayer(imagetest.Tar(imagetest.File("f", strings.Repeat("0123456789abcdef", 200_000), 0o644)), imagetest.Gzip)
	random := imagetest.NewLayer(imagetest.Tar(imagetest.File("f", strings.Repeat("x", 100), 0o644)), imagetest.Plain)
	flipped := bytes.Clone(good.Blob)
	flipped[len(flipped)/2] ^= 0x10
	badGzip := imagetest.Layer{Blob: flipped, DiffID: good.DiffID}
	badGzip.Descriptor.Digest, badGzip.Descriptor.Size = digest.FromBytes(flipped), int64(len(flipped))
	cutGzip := imagetest.Layer{Blob: good.Blob[:len(good.Blob)/2], DiffID: good.DiffID}
	cutGzip.Descriptor.Digest, cutGzip.Descriptor.Size = digest.FromBytes(cutGzip.Blob), int64(len(cutGzip.Blob))
	for name, change := range map[string]func() imagetest.Layer{
		"truncated blob":      func() imagetest.Layer { l := good; l.Blob = l.Blob[:len(l.Blob)-1]; return l },
		"half a blob":         func() imagetest.Layer { l := good; l.Blob = l.Blob[:len(l.Blob)/2]; return l },
		"no blob":             func() imagetest.Layer { l := good; l.Blob = nil; return l },
		"longer than told":    func() imagetest.Layer { l := good; l.Blob = append(bytes.Clone(l.Blob), 0); return l },
		"one bit flipped":     func() imagetest.Layer { l := good; l.Blob = flipped; return l },
		"wrong digest":        func() imagetest.Layer { l := good; l.Descriptor.Digest = digest.FromString("else"); return l },
		"wrong DiffID":        func() imagetest.Layer { l := good; l.DiffID = digest.FromString("else"); return l },
		"wrong DiffID, plain": func() imagetest.Layer { l := random; l.DiffID = digest.FromString("else"); return l },
		"damaged gzip":        func() imagetest.Layer { return badGzip },
		"truncated gzip":      func() imagetest.Layer { return cutGzip },
		"gzip is a lie":       func() imagetest.Layer { return rawLayer([]byte("\x1f\x8bnonsense, not gzip"), good.DiffID) },
		"zstd is a lie":       func() imagetest.Layer { return rawLayer([]byte("\x28\xb5\x2f\xfdnonsense"), good.DiffID) },
		"damaged plain header": func() imagetest.Layer {
			l := random
			l.Blob = append([]byte("X"), l.Blob[1:]...)
			return l
		},
		"something else":       func() imagetest.Layer { l := random; l.Blob = bytes.Repeat([]byte("x"), len(l.Blob)); return l },
		"garbage after gzip":   func() imagetest.Layer { return rawLayer(append(bytes.Clone(good.Blob), "garbage"...), good.DiffID) },
		"zstd window too wide": func() imagetest.Layer { return rawLayer(wideZstd(t), digest.FromString("x")) },
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := unpackTo(t, change())
			if !errors.Is(err, ErrCorrupt) || !errors.Is(err, errdefs.ErrDataLoss) {
				t.Errorf("error %v, want ErrCorrupt", err)
			}
		})
	}
	settle(t, before)
}

// settle waits until no more goroutines run than before.
func settle(t *testing.T, before int) {
	t.Helper()
	for range 6000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, were %d", runtime.NumGoroutine(), before)
}

func rawLayer(blob []byte, diffID digest.Digest) imagetest.Layer {
	l := imagetest.Layer{Blob: blob, DiffID: diffID}
	l.Descriptor.Digest, l.Descriptor.Size = digest.FromBytes(blob), int64(len(blob))
	return l
}

// wideZstd needs more memory to decompress than is allowed.
func wideZstd(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := zstd.NewWriter(&buf, zstd.WithWindowSize(maxZstdWindow*2), zstd.WithSingleSegment(false), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for i := range maxZstdWindow * 2 / len(block) {
		copy(block, fmt.Sprint(i))
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// zeros is endless.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestBomb unpacks a stream that inflates beyond what any honest layer does.
func TestBomb(t *testing.T) {
	var buf bytes.Buffer
	w, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(w, zeros{}, ratioFloor+1<<20); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if int64(buf.Len())*maxRatio > ratioFloor {
		t.Fatalf("%d bytes are no bomb", buf.Len())
	}
	_, _, err = unpackTo(t, rawLayer(buf.Bytes(), digest.FromString("x")))
	if !errors.Is(err, ErrHostile) {
		t.Fatalf("error %v, want ErrHostile", err)
	}
}

func TestSparse(t *testing.T) {
	const size = 8 << 20
	archive := oldSparse(size)
	dir, res, err := unpackTo(t, imagetest.NewLayer(archive, imagetest.Gzip))
	if err != nil {
		t.Fatal(err)
	}
	st := stat(t, filepath.Join(dir, "sparse"))
	if st.Size != size || st.Blocks*512 >= size {
		t.Errorf("size %d, %d allocated", st.Size, st.Blocks*512)
	}
	if res.Bytes >= size {
		t.Errorf("counted as %d bytes", res.Bytes)
	}
	head := make([]byte, 4)
	f, err := os.Open(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(head, 0); err != nil || string(head) != "data" {
		t.Errorf("content %q, %v", head, err)
	}
}

func TestSparseBomb(t *testing.T) {
	_, _, err := unpackTo(t, imagetest.NewLayer(oldSparse(maxSparseBytes+2<<20), imagetest.Gzip))
	if !errors.Is(err, ErrHostile) {
		t.Fatalf("error %v, want ErrHostile", err)
	}
}

// oldSparse is an archive with a file "sparse" in GNU's old sparse format: four
// bytes of data and then a hole up to size.
func oldSparse(size int64) []byte {
	b := make([]byte, 512)
	copy(b, "sparse")
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[124:], fmt.Sprintf("%011o\x00", 4))
	copy(b[136:], "00000000000\x00        S")
	copy(b[257:], "ustar  \x00")
	copy(b[386:], fmt.Sprintf("%011o\x00%011o\x00", 0, 4))
	// Numbers of more than 33 bits are binary.
	copy(b[483:], []byte{0x80, 0, 0, 0, byte(size >> 56), byte(size >> 48), byte(size >> 40), byte(size >> 32), byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)})
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	data := make([]byte, 512)
	copy(data, "data")
	return append(append(b, data...), make([]byte, 1024)...)
}

func TestFullDisk(t *testing.T) {
	dir := memory(t, "1m")
	l := imagetest.NewLayer(imagetest.Tar(imagetest.File("f", strings.Repeat("x", 4<<20), 0o644)), imagetest.Gzip)
	_, _, err := unpackIn(t, dir, l)
	if !errors.Is(err, errdefs.ErrResourceExhausted) || !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("error %v, want ErrResourceExhausted", err)
	}
}

// stuck blocks until it is closed.
type stuck struct{ closed chan struct{} }

func (s *stuck) Read([]byte) (int, error) { <-s.closed; return 0, io.ErrClosedPipe }
func (s *stuck) Close() error {
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	return nil
}

func TestCancel(t *testing.T) {
	needRoot(t)
	before := runtime.NumGoroutine()
	root, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("enough")
	time.AfterFunc(20*time.Millisecond, func() { cancel(why) })
	spec := Spec{Digest: digest.FromString("x"), Size: 1, DiffID: digest.FromString("x")}
	if _, err := Unpack(ctx, &stuck{make(chan struct{})}, spec, root, nil); !errors.Is(err, why) {
		t.Fatalf("error %v, want %v", err, why)
	}
	settle(t, before)
}

// panicky is what a decoder with a bug does.
type panicky struct{}

func (panicky) Read([]byte) (int, error) { panic("a bug") }
func (panicky) Close() error             { return nil }

func TestPanicIsAnError(t *testing.T) {
	needRoot(t)
	before := runtime.NumGoroutine()
	root, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	spec := Spec{Digest: digest.FromString("x"), Size: 1, DiffID: digest.FromString("x")}
	if _, err := Unpack(context.Background(), panicky{}, spec, root, nil); err == nil || !strings.Contains(err.Error(), "a bug") {
		t.Fatal(err)
	}
	settle(t, before)
}

// FuzzTree unpacks whatever the fuzzer makes of an archive: it must end, and
// nothing may appear outside.
func FuzzTree(f *testing.F) {
	for _, h := range imagetest.HostileLayers("/nowhere/canary") {
		if len(h.Archive) < 16<<10 {
			f.Add(h.Archive)
		}
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		if len(archive) > 1<<20 {
			return
		}
		dir, _, _ := unpackTo(t, imagetest.NewLayer(archive, imagetest.Plain))
		if list, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(list) != 1 {
			t.Fatalf("beside the root: %v, %v", list, err)
		}
	})
}
