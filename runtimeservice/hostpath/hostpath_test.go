package hostpath

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test's program is also the one that looks, or one that does not come back.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && (os.Args[1] == Command || os.Args[1] == ReadCommand) {
		if strings.HasSuffix(os.Args[2], "/hangs") {
			time.Sleep(time.Hour)
		}
		if err := Run(os.Args[1], os.Args[2], os.Stdout); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func tree(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "a", "b c"), 0o755),
		os.WriteFile(filepath.Join(dir, "a", "file"), nil, 0o644),
		os.Symlink("a/b c", filepath.Join(dir, "link")),
		os.Symlink(dir+"/link/../file", filepath.Join(dir, "far")),
		os.Symlink("loop", filepath.Join(dir, "loop")),
		os.Symlink("nowhere", filepath.Join(dir, "dangling")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Every way to look gives the same answer.
func TestResolve(t *testing.T) {
	dir := tree(t)
	r := New(os.Args[0])
	ways := map[string]func(string) (Path, error){
		"resolver": func(name string) (Path, error) { return r.Resolve(t.Context(), name) },
		"look":     look,
		"process":  func(name string) (Path, error) { return r.ask(t.Context(), name) },
	}
	for way, resolve := range ways {
		for name, want := range map[string]string{
			dir: dir, dir + "/link": dir + "/a/b c", dir + "/far": dir + "/a/file", dir + "//a/./file": dir + "/a/file", "/": "/",
			dir + "/link/..": dir + "/a",
		} {
			p, err := resolve(name)
			if err != nil || p.Name != want {
				t.Errorf("%s: %q is %q, want %q: %v", way, name, p.Name, want, err)
			}
			m, found, err := FindMount(p.Mount)
			if err != nil || !found || !strings.HasPrefix(want, m.Point) {
				t.Errorf("%s: %q is on the mount %+v, %v, %v", way, name, m, found, err)
			}
		}
		for name, want := range map[string]error{
			dir + "/none": fs.ErrNotExist, dir + "/dangling": fs.ErrNotExist, dir + "/a/file/x": unix.ENOTDIR, dir + "/loop": unix.ELOOP,
			dir + "/" + strings.Repeat("x", 300): unix.ENAMETOOLONG,
		} {
			if p, err := resolve(name); !errors.Is(err, want) {
				t.Errorf("%s: %q is %q, %v, want the error %v", way, name, p.Name, err, want)
			}
		}
	}
	if p, err := r.Resolve(t.Context(), dir+"/link/"); err != nil || p.Name != dir+"/a/b c" {
		t.Errorf("with a slash at its end: %q, %v", p.Name, err)
	}
}

// A link of /proc that is none is its text, as for everyone who reads it.
func TestLinksOfProc(t *testing.T) {
	p, err := New("").Resolve(t.Context(), "/proc/self/cwd")
	if dir, wdErr := os.Getwd(); err != nil || wdErr != nil || p.Name != dir {
		t.Errorf("it is %q, %v", p.Name, err)
	}
	m, found, err := FindMount(p.Mount)
	if err != nil || !found || m.Type == "proc" {
		t.Errorf("the mount is %+v, %v, %v", m, found, err)
	}
}

// A file is the same however it is read; what is no file, or too large, is said.
func TestRead(t *testing.T) {
	dir := tree(t)
	for name, content := range map[string]string{"full": "error 2", "empty": "", "large": strings.Repeat("x", MaxFile+1)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := New(os.Args[0])
	ways := map[string]func(string) (string, error){
		"resolver": func(name string) (string, error) {
			content, err := r.Read(t.Context(), name)
			return string(content), err
		},
		"process": func(name string) (string, error) { return r.run(t.Context(), ReadCommand, name) },
	}
	for way, read := range ways {
		for name, want := range map[string]error{"full": nil, "empty": nil, "none": fs.ErrNotExist, "link": unix.EINVAL, "large": unix.EFBIG} {
			if _, err := read(filepath.Join(dir, name)); !errors.Is(err, want) {
				t.Errorf("%s: the error of %s is %v, want %v", way, name, err, want)
			}
		}
		if content, _ := read(filepath.Join(dir, "full")); content != "error 2" {
			t.Errorf("%s: the content is %q", way, content)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := r.run(ctx, ReadCommand, "/hangs"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("of a file system that does not answer: %v", err)
	}
}

// Who waits for a process that does not come back waits as long as he wants, and never for
// good; what is waited for is bounded.
func TestNoAnswer(t *testing.T) {
	r := New(os.Args[0])
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := r.ask(ctx, "/hangs"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	r.patience = 10 * time.Millisecond
	if _, err := r.ask(t.Context(), "/hangs"); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("error is %v", err)
	}
	r = New(os.Args[0])
	for range maxLost {
		r.waiting <- struct{}{}
	}
	if _, err := r.ask(t.Context(), "/"); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("error is %v", err)
	}
	<-r.waiting
	if p, err := r.ask(t.Context(), "/"); err != nil || p.Name != "/" {
		t.Errorf("with room for one: %q, %v", p.Name, err)
	}
}

// A program that says something else, or nothing, is an error.
func TestOtherAnswers(t *testing.T) {
	for _, program := range []string{"/bin/true", "/bin/echo", "/nonexistent"} {
		if p, err := New(program).ask(t.Context(), "/"); err == nil {
			t.Errorf("%s answers %q", program, p.Name)
		}
	}
}

func TestParseMount(t *testing.T) {
	for line, want := range map[string]Mount{
		`36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`:          {ID: 36, Point: "/mnt2", Type: "ext3", Slave: true},
		`1 2 0:5 / / rw shared:7 master:3 - fuse.sshfs host:/ rw,user_id=0`:       {ID: 1, Point: "/", Type: "fuse.sshfs", Shared: true, Slave: true},
		`99 2 0:5 / /a\040b rw - nfs4 10.0.0.1:/export rw,vers=4.2,addr=10.0.0.1`: {ID: 99, Point: `/a\040b`, Type: "nfs4"},
		`100 2 0:6 / /x rw unbindable - tmpfs shared: rw`:                         {ID: 100, Point: "/x", Type: "tmpfs"},
	} {
		if m, ok := parseMount(line); !ok || m != want {
			t.Errorf("%q is %+v, %v", line, m, ok)
		}
	}
	for _, line := range []string{"", "x 2 0:5 / / rw - tmpfs a rw", "1 2 3"} {
		if m, ok := parseMount(line); ok {
			t.Errorf("%q is %+v", line, m)
		}
	}
	for kind, want := range map[string]bool{
		"fuse": true, "fuse.s3fs": true, "fuseblk": true, "nfs4": true, "cifs": true, "9p": true, "ceph": true,
		"ext4": false, "overlay": false, "tmpfs": false, "fusectl": false, "nfsd": false, "proc": false, "": false,
	} {
		if (Mount{Type: kind}).MayHang() != want {
			t.Errorf("%s may hang: %v", kind, !want)
		}
	}
}

func BenchmarkResolve(b *testing.B) {
	dir, err := filepath.EvalSymlinks(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	deep := filepath.Join(dir, "pods/uid/volumes/kubernetes.io~empty-dir/name")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		b.Fatal(err)
	}
	b.Run("resolver", func(b *testing.B) {
		r := New("")
		for b.Loop() {
			if _, err := r.Resolve(b.Context(), deep); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("EvalSymlinks", func(b *testing.B) {
		for b.Loop() {
			if _, err := filepath.EvalSymlinks(deep); err != nil {
				b.Fatal(err)
			}
		}
	})
}
