package checkpoint

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const testDigest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// put writes a file and the directories that it is in.
func put(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// whole writes the checkpoint of a container.
func whole(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	c := &Container{
		Config: Config{ID: "1", Name: "app", RootfsImage: testDigest},
		Spec:   specs.Spec{Process: &specs.Process{Cwd: "/"}, Linux: &specs.Linux{}, Root: &specs.Root{Path: "/r"}},
	}
	if err := Write(dir, c, map[string]string{"state": "running"}); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "checkpoint/inventory.img", "image")
	put(t, dir, "checkpoint/descriptors.json", `["/dev/null","pipe:[1]","pipe:[2]"]`)
	put(t, dir, RootfsFile, "changes")
	return dir
}

// tree lists the files and directories below dir.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && path != dir {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
			if info, _ := entry.Info(); info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s is %v: others can get at it", path, info.Mode())
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestArchiveAndBack(t *testing.T) {
	dir := whole(t)
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "checkpoint", "parent")); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := Pack(t.Context(), dir, &archive); err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if err := Unpack(t.Context(), bytes.NewReader(archive.Bytes()), int64(archive.Len()), to); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"checkpoint", "checkpoint/descriptors.json", "checkpoint/inventory.img",
		ConfigFile, RootfsFile, SpecFile, StatusFile,
	}
	if got := tree(t, to); !slices.Equal(got, want) {
		t.Errorf("unpacked %q, want %q", got, want)
	}
	c, err := Read(to)
	if err != nil {
		t.Fatal(err)
	}
	if c.Config.Name != "app" || c.Spec.Root.Path != "/r" {
		t.Errorf("read %+v", c)
	}
	if data, err := os.ReadFile(filepath.Join(to, RootfsFile)); string(data) != "changes" {
		t.Errorf("changes %q, %v", data, err)
	}
}

// pack makes an archive of headers; files have as many bytes as they say.
func pack(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, hdr := range headers {
		if err := w.WriteHeader(&hdr); err != nil {
			t.Fatal(err)
		}
		if hdr.Typeflag == tar.TypeReg {
			if _, err := w.Write(make([]byte, hdr.Size)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHostileArchives(t *testing.T) {
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 1} }
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, err := z.Write(pack(t, file("a")))
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	large := pack(t, tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 1 << 20})
	for name, archive := range map[string][]byte{
		"out of the directory":       pack(t, file("../escape")),
		"out of it on a detour":      pack(t, file("checkpoint/../../escape")),
		"an absolute path":           pack(t, file("/escape")),
		"a directory outside":        pack(t, dir("../escape")),
		"the directory itself":       pack(t, file(".")),
		"a symbolic link":            pack(t, tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/etc"}),
		"through a symbolic link":    pack(t, tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: ".."}, file("a/escape")),
		"a hard link":                pack(t, tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "/etc/shadow"}),
		"a device":                   pack(t, tar.Header{Name: "a", Typeflag: tar.TypeBlock, Devmajor: 8}),
		"a FIFO":                     pack(t, tar.Header{Name: "a", Typeflag: tar.TypeFifo}),
		"a name twice":               pack(t, file("a"), file("./a")),
		"a file that is a directory": pack(t, dir("a"), file("a")),
		"a directory that is a file": pack(t, file("a"), dir("a")),
		"a file below a file":        pack(t, file("a"), file("a/b")),
		"a long name":                pack(t, file(strings.Repeat("a/", 3)+strings.Repeat("b", maxName))),
		"a deep name":                pack(t, file(strings.Repeat("a/", maxDepth)+"b")),
		"an archive that is cut off": large[:len(large)/2],
		"a compressed archive":       zipped.Bytes(),
		"no archive":                 bytes.Repeat([]byte("x"), 1024),
	} {
		t.Run(name, func(t *testing.T) {
			outside := t.TempDir()
			to := filepath.Join(outside, "to")
			if err := os.Mkdir(to, 0o700); err != nil {
				t.Fatal(err)
			}
			err := Unpack(t.Context(), bytes.NewReader(archive), int64(len(archive)), to)
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v", err)
			}
			if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
				t.Errorf("outside are %v, %v", entries, err)
			}
		})
	}
}

// What is written is bounded by the size of the archive and by the number of its entries.
func TestLimitsOfArchives(t *testing.T) {
	archive := pack(t, tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 600}, tar.Header{Name: "b", Typeflag: tar.TypeReg, Size: 600})
	to := t.TempDir()
	if err := Unpack(t.Context(), bytes.NewReader(archive), 1000, to); !errdefs.IsInvalidArgument(err) {
		t.Errorf("more than its size: error %v", err)
	}
	if info, err := os.Stat(filepath.Join(to, "b")); err != nil || info.Size() > 401 {
		t.Errorf("written were %v, %v", info, err)
	}
	r, w := io.Pipe()
	go func() {
		archive := tar.NewWriter(w)
		var err error
		for err == nil {
			err = archive.WriteHeader(&tar.Header{Name: "a", Typeflag: tar.TypeDir})
		}
	}()
	err := Unpack(t.Context(), r, 1<<40, t.TempDir())
	r.Close()
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("entries without an end: error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Unpack(ctx, bytes.NewReader(archive), 1<<20, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits: error %v", err)
	}
}

func TestCopy(t *testing.T) {
	from, to := whole(t), t.TempDir()
	if err := os.Mkdir(filepath.Join(from, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Copy(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
	if got, want := len(tree(t, to)), 8; got != want {
		t.Errorf("copied %q", tree(t, to))
	}
	if _, err := Read(to); err != nil {
		t.Error(err)
	}
	for name, hostile := range map[string]func(path string) error{
		"a link to a file":      func(path string) error { return os.Symlink("/etc/passwd", path) },
		"a link to a directory": func(path string) error { return os.Symlink("/etc", path) },
		"a FIFO":                func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a device":              func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o600, 1<<8|5) },
	} {
		for _, at := range []string{"x", "checkpoint/x"} {
			from := whole(t)
			if err := hostile(filepath.Join(from, at)); err != nil {
				t.Fatal(err)
			}
			if err := Copy(t.Context(), from, t.TempDir()); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%s at %s: error %v", name, at, err)
			}
		}
	}
}

func TestMalformedCheckpoints(t *testing.T) {
	const spec = `{"process":{"cwd":"/"},"root":{"path":"/"},"linux":{}}`
	for name, test := range map[string]struct {
		file, content string // removed if there is no content
		want          func(error) bool
	}{
		"no configuration":          {ConfigFile, "", errdefs.IsInvalidArgument},
		"no specification":          {SpecFile, "", errdefs.IsInvalidArgument},
		"no images":                 {"checkpoint/inventory.img", "", errdefs.IsInvalidArgument},
		"configuration of a kind":   {ConfigFile, `["a"]`, errdefs.IsInvalidArgument},
		"configuration cut off":     {ConfigFile, `{"id":`, errdefs.IsInvalidArgument},
		"giant configuration":       {ConfigFile, `"` + strings.Repeat("a", maxJSON) + `"`, errdefs.IsInvalidArgument},
		"specification: no process": {SpecFile, strings.Replace(spec, "process", "p", 1), errdefs.IsInvalidArgument},
		"specification: no root":    {SpecFile, strings.Replace(spec, "root", "r", 1), errdefs.IsInvalidArgument},
		"specification: no Linux":   {SpecFile, strings.Replace(spec, "linux", "l", 1), errdefs.IsInvalidArgument},
		"one more descriptor":       {"checkpoint/descriptors.json", `["pipe:[1]","pipe:[2]","pipe:[3]","pipe:[4]"]`, errdefs.IsInvalidArgument},
		"descriptors of a kind":     {"checkpoint/descriptors.json", `{}`, errdefs.IsInvalidArgument},
		"removed files":             {deletedFile, `["/etc/passwd"]`, errdefs.IsFailedPrecondition},
		"good":                      {SpecFile, spec, func(err error) bool { return err == nil }},
		"good, nothing removed":     {deletedFile, "[]\n", func(err error) bool { return err == nil }},
	} {
		dir := whole(t)
		if err := os.RemoveAll(filepath.Join(dir, test.file)); err != nil {
			t.Fatal(err)
		}
		if test.content != "" {
			put(t, dir, test.file, test.content)
		}
		if _, err := Read(dir); !test.want(err) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// The image is looked up by its digest alone; a name can be that of any image.
func TestImageID(t *testing.T) {
	const inRegistry = "example.test/app@" + testDigest
	for name, test := range map[string]struct {
		config Config
		want   string
	}{
		"an ID":                    {Config{RootfsImage: testDigest}, testDigest},
		"an ID before a reference": {Config{RootfsImage: testDigest, RootfsImageRef: inRegistry}, testDigest},
		"a reference":              {Config{RootfsImage: "app", RootfsImageRef: inRegistry}, inRegistry},
		"a name":                   {Config{RootfsImageName: "example.test/app:v1", RootfsImage: "app"}, ""},
		"a name like a digest":     {Config{RootfsImage: "-x@" + testDigest}, ""},
		"more behind the digest":   {Config{RootfsImageRef: inRegistry + "\n"}, ""},
		"another kind of digest":   {Config{RootfsImage: "md5:d41d8cd98f00b204e9800998ecf8427e"}, ""},
		"nothing":                  {Config{}, ""},
	} {
		got, err := (&Container{Config: test.config}).ImageID()
		if got != test.want || (err == nil) != (test.want != "") || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %q, %v, want %q", name, got, err, test.want)
		}
	}
}

func TestPod(t *testing.T) {
	dir := t.TempDir()
	if err := WritePod(dir, Pod{Runtime: "berth", Containers: []string{"a", "b"}}); err != nil {
		t.Fatal(err)
	}
	if p, err := ReadPod(dir); err != nil || p.Runtime != "berth" || !slices.Equal(p.Containers, []string{"a", "b"}) {
		t.Errorf("read %+v, %v", p, err)
	}
	for _, content := range []string{
		`{}`, `{"version":2,"containers":["a"]}`, `{"version":1,"containers":["a","a"]}`, `{"version":1,"containers":[""]}`, `[`,
	} {
		put(t, dir, PodFile, content)
		if _, err := ReadPod(dir); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: error %v", content, err)
		}
	}
	if _, err := ReadPod(t.TempDir()); !errdefs.IsInvalidArgument(err) {
		t.Errorf("nothing: error %v", err)
	}
}
