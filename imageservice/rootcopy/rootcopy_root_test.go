package rootcopy

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/imageservice/idmap"
	"github.com/berth-cri/berth/imageservice/imagetest"
)

// container makes a root with a script, and a directory beside it that stands for the node.
func container(t *testing.T, script string) (root *os.File, node string) {
	t.Helper()
	base := t.TempDir()
	for _, dir := range []string{"root", "node"} {
		if err := os.Mkdir(filepath.Join(base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(base, "node/secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = filepath.Join(base, "root")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	root, err := os.Open(cmd.Dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root, filepath.Join(base, "node")
}

func out(t *testing.T, root *os.File, path string) (names []string, archive []byte) {
	t.Helper()
	var buf bytes.Buffer
	if err := Out(t.Context(), root, path, &buf, idmap.Map{}); err != nil {
		t.Fatalf("copy %q: %v", path, err)
	}
	archive = slices.Clone(buf.Bytes())
	cmd := exec.Command("tar", "t")
	cmd.Stdin = &buf
	list, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(list)), archive
}

func in(root *os.File, dir, top string, archive []byte) error {
	return In(context.Background(), root, dir, top, bytes.NewReader(archive), idmap.Map{})
}

func describe(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.Command("find", ".", "-mindepth", "1", "-printf", "%p %y %m %U:%G %T@ %l %s\n")
	cmd.Dir = dir
	list, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(list), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestRoundTrip(t *testing.T) {
	from, _ := container(t, `mkdir -p d/sub; echo hi > d/f; chown 5:6 d/f; chmod 4711 d/f; ln -s /nowhere d/l; touch d/.wh.x; chmod 700 d/sub
		echo x > d/sub/y; touch -d @1000.5 d/sub; ln d/f d/g; chown -h 7:8 d/l`)
	names, archive := out(t, from, "/d")
	if want := []string{"d/", "d/.wh.x", "d/f", "d/g", "d/l", "d/sub/", "d/sub/y"}; !slices.Equal(names, want) {
		t.Errorf("the archive has %q, want %q", names, want)
	}
	for _, c := range []struct{ dir, top, at string }{{"/", "d", "d"}, {"/etc", "d", "etc/d"}, {"/etc/new", "d", "etc/new"}, {"etc/", "", "etc/d"}} {
		to, _ := container(t, "mkdir etc")
		if err := in(to, c.dir, c.top, archive); err != nil {
			t.Errorf("copy to %q: %v", c.dir, err)
			continue
		}
		withoutLinkTimes := func(s string) string {
			lines := strings.Split(s, "\n")
			for i, l := range lines {
				if f := strings.Fields(l); len(f) > 5 && f[1] == "l" {
					lines[i] = strings.Join(slices.Delete(f, 4, 5), " ")
				}
			}
			return strings.Join(lines, "\n")
		}
		if got, want := withoutLinkTimes(describe(t, filepath.Join(to.Name(), c.at))), withoutLinkTimes(describe(t, filepath.Join(from.Name(), "d"))); got != want {
			t.Errorf("copied to %q:\n%s\nwant\n%s", c.dir, got, want)
		}
	}
}

// Links lead where they lead for the container, never to the node.
func TestLinksStayInside(t *testing.T) {
	root, node := container(t, `mkdir -p run var etc; ln -s /run var/run; ln -s ../node/secret file; ln -s ../../../node dir; ln -s ../node/secret etc/file
		ln -s `+"$(realpath ../node)"+` absolute; mkdir inside`)
	_, archive := out(t, root, "/file")
	if hdr, err := tar.NewReader(bytes.NewReader(archive)).Next(); err != nil || hdr.Typeflag != tar.TypeSymlink {
		t.Errorf("a link is %+v, %v", hdr, err)
	}
	for _, path := range []string{"/dir/secret", "/dir/", "/absolute/secret", "/file/", "../node/secret", "/../../node/secret", "/inside/../../node/secret"} {
		if err := Out(t.Context(), root, path, io.Discard, idmap.Map{}); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("copy %q: %v", path, err)
		}
	}
	evil := imagetest.Tar(imagetest.File("f", "evil", 0o644))
	for _, dir := range []string{"/dir", "/absolute", "../node"} {
		if err := in(root, dir, "", evil); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("copy into %q: %v", dir, err)
		}
	}
	// A link in the place of the file is replaced, not followed.
	if err := in(root, "/etc/file", "f", evil); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(filepath.Join(node, "secret")); err != nil || string(data) != "secret" {
		t.Errorf("the node's file is %q, %v", data, err)
	}
	if info, err := os.Lstat(filepath.Join(root.Name(), "etc/file")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("%v, %v", info, err)
	}
	// One to a directory stays, also where the archive has a directory of its name.
	if err := in(root, "/", "", imagetest.Tar(imagetest.Dir("var", 0o700), imagetest.Dir("var/run", 0o700), imagetest.File("var/run/pid", "1", 0o644))); err != nil {
		t.Error(err)
	}
	if target, _ := os.Readlink(filepath.Join(root.Name(), "var/run")); target != "/run" {
		t.Errorf("the link leads to %q", target)
	}
	if _, err := os.Stat(filepath.Join(root.Name(), "run/pid")); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(filepath.Join(root.Name(), "var")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("a directory that was there is %v, %v", info, err)
	}
}

// Nothing of the daemon's own can be had through the kernel's file systems.
func TestKernelFileSystems(t *testing.T) {
	root, _ := container(t, "mkdir proc etc; echo x > etc/f; ln -s /proc/self/environ environ; ln -s /proc/self data; ln -s /proc/self/root host")
	proc := filepath.Join(root.Name(), "proc")
	if err := unix.Mount("proc", proc, "proc", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(proc, unix.MNT_DETACH) })
	for _, path := range []string{"/proc", "/proc/", "/proc/self/environ", "/data/environ", "/data/mem", "/proc/self/cwd/", "/host/etc/passwd", "/proc/1/root/etc/passwd", "/proc/self/fd/0"} {
		if err := Out(t.Context(), root, path, io.Discard, idmap.Map{}); err == nil {
			t.Errorf("%q was copied", path)
		}
		if err := in(root, path, "f", imagetest.Tar(imagetest.File("f", "evil", 0o644))); err == nil {
			t.Errorf("%q was written", path)
		}
	}
	names, archive := out(t, root, "/")
	if want := []string{"./", "data", "environ", "etc/", "etc/f", "host"}; !slices.Equal(names, want) || len(archive) > 20_000 {
		t.Errorf("%d bytes of %q", len(archive), names)
	}
}

func TestRefusedArchives(t *testing.T) {
	root, _ := container(t, "mkdir d e; echo x > f; mkfifo p")
	for what, archive := range map[string][]byte{
		"a device":               imagetest.Tar(imagetest.Device("null", '3', 1, 3)),
		"a name that leads out":  imagetest.Tar(imagetest.File("../x", "x", 0o644)),
		"a link that leads out":  imagetest.Tar(imagetest.Hardlink("x", "../f")),
		"no archive":             bytes.Repeat([]byte("x"), 1024),
		"half an archive":        imagetest.Tar(imagetest.File("x", strings.Repeat("x", 2000), 0o644))[:1500],
		"a file for a directory": imagetest.Tar(imagetest.File("e", "x", 0o644)),
	} {
		dir := "/d"
		if strings.HasSuffix(what, "a directory") {
			dir = "/"
		}
		if err := in(root, dir, "", archive); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if names, _ := out(t, root, "/d"); len(names) != 1 {
		t.Errorf("left: %q", names)
	}
	for path, want := range map[string]error{"": errdefs.ErrInvalidArgument, "a\x00b": errdefs.ErrInvalidArgument, "/none": errdefs.ErrNotFound, "/f/x": errdefs.ErrInvalidArgument} {
		if err := Out(t.Context(), root, path, io.Discard, idmap.Map{}); !errors.Is(err, want) {
			t.Errorf("copy %q: %v", path, err)
		}
	}
	if names, _ := out(t, root, "/p"); len(names) != 1 { // and does not wait for a writer
		t.Errorf("a pipe: %q", names)
	}
}

func TestUserNamespace(t *testing.T) {
	root, _ := container(t, "true")
	ids := idmap.Map{UIDs: idmap.Ranges{{Host: 200000, Length: 1000}}, GIDs: idmap.Ranges{{Host: 300000, Length: 1000}}}
	archive := imagetest.Tar(imagetest.File("a", "a", 0o4755).Owned(5, 6), imagetest.File("b", "b", 0o644).Owned(5000, 0), imagetest.Dir("d", 0o755).Owned(7, 8))
	if err := In(t.Context(), root, "/", "", bytes.NewReader(archive), ids); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][3]uint32{"a": {200005, 300006, 0o4755}, "b": {200000, 300000, 0o644}, "d": {200007, 300008, 0o755}} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root.Name(), name), &st); err != nil || [3]uint32{st.Uid, st.Gid, st.Mode & 0o7777} != want {
			t.Errorf("%s is %d:%d %o, want %v", name, st.Uid, st.Gid, st.Mode, want)
		}
	}
}

// Capabilities are for the root of the container's user namespace, and labels and marks of
// overlayfs are not for an archive to set.
func TestExtendedAttributes(t *testing.T) {
	const (
		plain   = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_raw=ep
		mapped  = "\x01\x00\x00\x03\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x40\x0d\x03\x00"
		nobodys = "\x01\x00\x00\x03\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xfe\xff\x00\x00" // of a root that is not mapped
	)
	ids := idmap.Map{UIDs: idmap.Ranges{{Host: 200000, Length: 1000}}, GIDs: idmap.Ranges{{Host: 300000, Length: 1000}}}
	for _, c := range []struct {
		ids        idmap.Map
		sent, want string
	}{{idmap.Map{}, plain, plain}, {ids, plain, mapped}, {ids, nobodys, mapped}} {
		archive := imagetest.Tar(imagetest.File("ping", "program", 0o755).Owned(1, 2).Xattr("security.capability", c.sent).
			Xattr("user.note", "mine").Xattr("trusted.overlay.opaque", "y").Xattr("security.selinux", "label"))
		root, _ := container(t, "true")
		if err := In(t.Context(), root, "/", "", bytes.NewReader(archive), c.ids); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"security.capability": c.want, "user.note": "mine", "trusted.overlay.opaque": "", "security.selinux": ""} {
			value := make([]byte, 100)
			n, err := unix.Lgetxattr(filepath.Join(root.Name(), "ping"), name, value)
			if got := string(value[:max(n, 0)]); got != want {
				t.Errorf("%s is %q (%v), want %q", name, got, err, want)
			}
		}
		var again bytes.Buffer
		if err := Out(t.Context(), root, "/ping", &again, c.ids); err != nil {
			t.Fatal(err)
		}
		hdr, err := tar.NewReader(&again).Next()
		if err != nil || hdr.PAXRecords["SCHILY.xattr.security.capability"] != plain || hdr.PAXRecords["SCHILY.xattr.user.note"] != "mine" {
			t.Errorf("copied out: %+v, %v", hdr, err)
		}
	}
}

// A container that exchanges a directory for a link to the node, again and again, while files
// are copied through it.
func TestRaces(t *testing.T) {
	root, node := container(t, "mkdir dir; echo mine > dir/secret; ln -s ../node link; ln -s "+"$(realpath ../node)"+" absolute")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			link := []string{"link", "absolute"}[n%2]
			_ = unix.Renameat2(int(root.Fd()), "dir", int(root.Fd()), link, unix.RENAME_EXCHANGE)
			_ = unix.Renameat2(int(root.Fd()), "dir", int(root.Fd()), link, unix.RENAME_EXCHANGE)
		}
	}()
	evil := imagetest.Tar(imagetest.Dir("sub", 0o755), imagetest.File("sub/f", "evil", 0o644), imagetest.File("secret", "mine", 0o644))
	done := 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		var buf bytes.Buffer
		if err := Out(t.Context(), root, "/dir/secret", &buf, idmap.Map{}); err == nil && !bytes.Contains(buf.Bytes(), []byte("mine")) {
			t.Fatalf("copied %q", buf.Bytes())
		}
		if in(root, "/dir", "", evil) == nil {
			done++
		}
	}
	close(stop)
	<-stopped
	if done == 0 {
		t.Error("nothing was copied")
	}
	entries, err := os.ReadDir(node)
	if err != nil || len(entries) != 1 {
		t.Errorf("the node has %v, %v", entries, err)
	}
	if data, _ := os.ReadFile(filepath.Join(node, "secret")); string(data) != "secret" {
		t.Errorf("the node's file is %q", data)
	}
}
