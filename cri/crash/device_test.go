package crash

import (
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	gofuse "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// device is a file for a loop device to stand on, which does what disks do: it keeps
// what is written in a cache until it is told to flush, and loses any part of that
// with its power. It can be told to fail.
type device struct {
	path   string // of the file
	size   int64
	server *fuse.Server

	mu      sync.Mutex
	live    *os.File // what is read
	durable *os.File // what was flushed
	cache   []write  // the difference
	failing func(write bool) syscall.Errno
	flushes int
	alarm   func() // runs, with mu held, when the cache has enough in it
	enough  int
}

type write struct {
	offset int64
	data   []byte
}

// newDevice serves a file that begins with the content of the one at path.
func newDevice(t *testing.T, path string) *device {
	t.Helper()
	d := &device{}
	var err error
	if d.live, err = os.OpenFile(path, os.O_RDWR, 0); err == nil {
		shadow := path + "-durable"
		command(t, "cp", "--sparse=always", path, shadow)
		d.durable, err = os.OpenFile(shadow, os.O_RDWR, 0)
	}
	if err == nil {
		var st os.FileInfo
		if st, err = d.live.Stat(); err == nil {
			d.size = st.Size()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := mountpoint(t)
	d.path = filepath.Join(dir, "disk")
	d.server, err = gofuse.Mount(dir, &deviceRoot{device: d}, &gofuse.Options{
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "device", Name: "berthtest", MaxWrite: 1 << 20},
	})
	if err != nil {
		t.Fatalf("mount a FUSE file system: %v", err)
	}
	closeFuseOnExec(t)
	t.Cleanup(func() {
		if err := d.server.Unmount(); err != nil {
			t.Errorf("unmount the FUSE file system: %v", err)
		}
		d.live.Close()
		d.durable.Close()
	})
	return d
}

// closeFuseOnExec keeps the connection from the programs that the test starts.
func closeFuseOnExec(t *testing.T) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || to != "/dev/fuse" {
			continue
		}
		if fd, err := strconv.Atoi(filepath.Base(link)); err == nil {
			unix.CloseOnExec(fd)
		}
	}
}

// cutPower waits until n writes are in the cache, or for a while, and writes to path what
// is left when the power fails then.
func (d *device) cutPower(t *testing.T, n int, path string, random *rand.Rand) {
	t.Helper()
	done := make(chan struct{})
	d.mu.Lock()
	d.enough, d.alarm = n, sync.OnceFunc(func() {
		d.alarm = nil
		d.lose(t, path, random)
		close(done)
	})
	alarm := d.alarm
	d.mu.Unlock()
	select {
	case <-done:
	case <-time.After(time.Second):
		d.mu.Lock()
		defer d.mu.Unlock()
		alarm()
	}
}

// lose keeps all that was flushed, and of the rest what the disk happened to have
// written, in blocks. mu is held.
func (d *device) lose(t *testing.T, path string, random *rand.Rand) {
	t.Helper()
	const block = 4096
	command(t, "cp", "--sparse=always", d.durable.Name(), path)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	keep := random.IntN(5) // of four quarters
	for _, w := range d.cache {
		for at := 0; at < len(w.data); at += block {
			if random.IntN(4) >= keep {
				continue
			}
			if _, err := f.WriteAt(w.data[at:min(at+block, len(w.data))], w.offset+int64(at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("the power fails after %d flushes, with %d writes in the cache", d.flushes, len(d.cache))
}

// fail makes reads and writes end with the errors that f returns; nil ends that.
func (d *device) fail(f func(write bool) syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failing = f
}

// failure is the error for a transfer. mu is held.
func (d *device) failure(write bool) syscall.Errno {
	if d.failing == nil {
		return 0
	}
	return d.failing(write)
}

// deviceRoot is the directory with the file.
type deviceRoot struct {
	gofuse.Inode
	device *device
}

// OnAdd makes the file.
func (r *deviceRoot) OnAdd(ctx context.Context) {
	r.AddChild("disk", r.NewPersistentInode(ctx, &deviceFile{device: r.device}, gofuse.StableAttr{Mode: syscall.S_IFREG}), false)
}

type deviceFile struct {
	gofuse.Inode
	device *device
}

var (
	_ gofuse.NodeOnAdder   = (*deviceRoot)(nil)
	_ gofuse.NodeGetattrer = (*deviceFile)(nil)
	_ gofuse.NodeOpener    = (*deviceFile)(nil)
	_ gofuse.NodeReader    = (*deviceFile)(nil)
	_ gofuse.NodeWriter    = (*deviceFile)(nil)
	_ gofuse.NodeFsyncer   = (*deviceFile)(nil)
)

// Getattr implements fs.NodeGetattrer.
func (f *deviceFile) Getattr(_ context.Context, _ gofuse.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Size = 0o600, uint64(f.device.size)
	return 0
}

// Open implements fs.NodeOpener. Nothing is cached on the way to the disk.
func (f *deviceFile) Open(context.Context, uint32) (gofuse.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_DIRECT_IO, 0
}

// Read implements fs.NodeReader.
func (f *deviceFile) Read(_ context.Context, _ gofuse.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	d := f.device
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.failure(false); e != 0 {
		return nil, e
	}
	n, err := d.live.ReadAt(dest, off)
	if err != nil && err != io.EOF {
		return nil, gofuse.ToErrno(err)
	}
	return fuse.ReadResultData(dest[:n]), 0
}

// Write implements fs.NodeWriter.
func (f *deviceFile) Write(_ context.Context, _ gofuse.FileHandle, data []byte, off int64) (uint32, syscall.Errno) {
	d := f.device
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.failure(true); e != 0 {
		return 0, e
	}
	if _, err := d.live.WriteAt(data, off); err != nil {
		return 0, gofuse.ToErrno(err)
	}
	d.cache = append(d.cache, write{off, append([]byte(nil), data...)})
	if d.alarm != nil && len(d.cache) >= d.enough {
		d.alarm()
	}
	return uint32(len(data)), 0
}

// Fsync implements fs.NodeFsyncer: it is what a flush of the loop device becomes.
func (f *deviceFile) Fsync(context.Context, gofuse.FileHandle, uint32) syscall.Errno {
	d := f.device
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.failure(true); e != 0 {
		return e
	}
	for _, w := range d.cache {
		if _, err := d.durable.WriteAt(w.data, w.offset); err != nil {
			return gofuse.ToErrno(err)
		}
	}
	d.cache = nil
	d.flushes++
	return 0
}
