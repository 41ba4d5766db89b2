package monitor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	criurpc "github.com/checkpoint-restore/go-criu/v8/rpc"
	"golang.org/x/sys/unix"
)

// A copy of the test program that is called criu does as CRIU does, but for the dump
// itself: it stops the processes of the cgroup as their tracer, thaws the cgroup, and
// freezes it again before it leaves them, if it was frozen. What becomes of that is in the
// file "mode" beside it.
const (
	dumps   = "dumps"
	fails   = "fails"   // to dump, and says so
	dies    = "dies"    // while the processes are stopped
	hangs   = "hangs"   // while the processes are stopped, and would never end
	lingers = "lingers" // as hangs, but does its work to its end when the file "go" is there
	tooOld  = "too old"
	useless = "useless" // on this kernel
)

// fakeCRIU is the directory of such a program.
type fakeCRIU struct {
	t   testing.TB
	dir string
}

func newFakeCRIU(t testing.TB) *fakeCRIU {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeCRIU{t, t.TempDir()}
	if err := os.WriteFile(filepath.Join(f.dir, "criu"), self, 0o755); err != nil {
		t.Fatal(err)
	}
	f.set(dumps)
	return f
}

func (f *fakeCRIU) set(mode string) { f.write("mode", mode) }

func (f *fakeCRIU) write(name, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// wrap makes a program of a runtime's that finds it too: monitors give them a PATH of their
// own.
func (f *fakeCRIU) wrap(runtime string) string {
	f.t.Helper()
	script := filepath.Join(f.dir, "runtime")
	text := fmt.Sprintf("#!/bin/sh\nPATH=%s:$PATH exec %s \"$@\"\n", f.dir, runtime)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		f.t.Fatal(err)
	}
	return script
}

// waitGone returns when no process of it is left.
func (f *fakeCRIU) waitGone() {
	f.t.Helper()
	eventually(f.t, func() error {
		all, err := filepath.Glob("/proc/[0-9]*/exe")
		if err != nil {
			return err
		}
		for _, exe := range all {
			if path, _ := os.Readlink(exe); path == filepath.Join(f.dir, "criu") {
				return fmt.Errorf("%s is still there", exe)
			}
		}
		return nil
	})
}

// isFakeCRIU tells whether this process is to be one.
func isFakeCRIU() bool {
	self, err := os.Executable()
	return err == nil && filepath.Base(self) == "criu"
}

// runFakeCRIU is its main function.
func runFakeCRIU() (err error) {
	runtime.LockOSThread() // the tracer is a thread
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir := filepath.Dir(self)
	mode, err := os.ReadFile(filepath.Join(dir, "mode"))
	if err != nil {
		return err
	}
	if os.Args[1] == "check" {
		if string(mode) == useless {
			return errors.New("(00.1) Error (criu/cr-check.c:1): not on this kernel")
		}
		return nil
	}
	fd, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	data := make([]byte, 64<<10)
	n, err := unix.Read(fd, data)
	if err != nil || n == 0 {
		return err
	}
	var req criurpc.CriuReq
	if err := req.UnmarshalVT(data[:n]); err != nil {
		return err
	}
	resp := &criurpc.CriuResp{Type: req.Type, Success: new(true)}
	switch req.GetType() {
	case criurpc.CriuReqType_VERSION:
		resp.Version = &criurpc.CriuVersion{MajorNumber: new(int32(3)), MinorNumber: new(int32(17))}
		if string(mode) == tooOld {
			resp.Version.MinorNumber = new(int32(15))
		}
	case criurpc.CriuReqType_DUMP:
		if err := (&fakeDump{dir: dir, mode: string(mode), opts: req.GetOpts()}).run(); err != nil {
			fmt.Fprintln(os.Stderr, "fake CRIU:", err)
			resp.Success = new(false)
		}
	}
	if data, err = resp.MarshalVT(); err != nil {
		return err
	}
	_, err = unix.Write(fd, data)
	return err
}

type fakeDump struct {
	dir, mode string
	opts      *criurpc.CriuOpts
	// images is the caller's descriptor, which may be gone by the end.
	images string
	traced []int
}

func (d *fakeDump) run() error {
	images, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getppid(), d.opts.GetImagesDirFd()))
	if err != nil {
		return err
	}
	d.images = images
	control, frozen, thawed := filepath.Join(d.opts.GetFreezeCgroup(), "cgroup.freeze"), "1", "0"
	if _, err := os.Stat(control); err != nil {
		control, frozen, thawed = filepath.Join(d.opts.GetFreezeCgroup(), "freezer.state"), "FROZEN", "THAWED"
	}
	before, err := os.ReadFile(control)
	if err != nil {
		return err
	}
	if err := d.trace(); err != nil {
		return err
	}
	if err := os.WriteFile(control, []byte(thawed), 0); err != nil {
		return err
	}
	for _, pid := range d.traced {
		if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != nil {
			return fmt.Errorf("wait for process %d: %w", pid, err)
		}
	}
	failed := d.dump()
	if strings.TrimSpace(string(before)) == frozen {
		failed = errors.Join(failed, os.WriteFile(control, []byte(frozen), 0))
	}
	for _, pid := range d.traced {
		failed = errors.Join(failed, unix.PtraceDetach(pid))
	}
	return failed
}

// trace stops the processes of the cgroup and below as soon as it is thawed.
func (d *fakeDump) trace() error {
	return filepath.WalkDir(d.opts.GetFreezeCgroup(), func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.Name() != "cgroup.procs" {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, field := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return err
			}
			if err := errors.Join(unix.PtraceSeize(pid), unix.PtraceInterrupt(pid)); err != nil {
				return fmt.Errorf("trace process %d: %w", pid, err)
			}
			d.traced = append(d.traced, pid)
		}
		return nil
	})
}

func (d *fakeDump) dump() error {
	log := "(00.1) Dumping\n"
	defer func() { _ = os.WriteFile(filepath.Join(d.images, "dump.log"), []byte(log), 0o600) }()
	note := func(name string) error { return os.WriteFile(filepath.Join(d.dir, name), nil, 0o600) }
	switch d.mode {
	case fails:
		log += "(00.2) Error (criu/files.c:7): it has something that cannot be dumped\n"
		return errors.New("cannot")
	case dies:
		return unix.Kill(os.Getpid(), unix.SIGKILL)
	case hangs:
		if err := note("hangs"); err != nil {
			return err
		}
		time.Sleep(time.Hour)
	case lingers:
		if err := note("lingers"); err != nil {
			return err
		}
		for {
			if _, err := os.Stat(filepath.Join(d.dir, "go")); err == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	return os.WriteFile(filepath.Join(d.images, "inventory.img"), []byte("image"), 0o600)
}
