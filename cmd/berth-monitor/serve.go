package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runc/libcontainer/exeseal"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
	"github.com/berth-cri/berth/runtimeservice/monitor/server"
)

// Descriptors beyond the standard streams: stage one gets the pipe on which
// readiness is told; stage two gets the sealed program before it.
const (
	readyFD       = 3
	stageTwoExe   = 3
	stageTwoReady = 4
)

// serve runs twice. Stage one copies the program into a sealed memory file,
// starts it from there and ends, so that the monitor is no child of the daemon.
// Stage two serves. A container cannot overwrite the sealed program, so
// libcontainer needs no copy of it for each container.
func serve(dir, cgroup string) {
	if fd := os.Getenv(server.ResumeEnv); fd != "" {
		err := resume(dir, fd)
		fmt.Fprintln(os.Stderr, "berth-monitor:", err)
		os.Exit(1)
	}
	if exeseal.IsSelfExeCloned() {
		ready := os.NewFile(stageTwoReady, "ready")
		unix.Close(stageTwoExe)
		err := stageTwo(dir, cgroup, ready)
		report(ready, err)
		return
	}
	// What the daemon forgot to close is not for the monitor.
	_ = unix.CloseRange(readyFD+1, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	ready := os.NewFile(readyFD, "ready")
	if err := stageOne(dir, ready); err != nil {
		report(ready, err)
	}
}

// report tells the daemon the error and ends.
func report(ready *os.File, err error) {
	fmt.Fprint(ready, err)
	fmt.Fprintln(os.Stderr, "berth-monitor:", err)
	os.Exit(1)
}

func stageOne(dir string, ready *os.File) error {
	exe, err := server.SealedCopy("/proc/self/exe")
	if err != nil {
		return err
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	log, err := openLog(filepath.Join(dir, protocol.LogName))
	if err != nil {
		return err
	}
	_, err = os.StartProcess("/proc/self/fd/"+strconv.Itoa(stageTwoExe), os.Args, &os.ProcAttr{
		Dir:   "/",
		Env:   os.Environ(),
		Files: []*os.File{null, log, log, exe, ready},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start sealed program: %w", err)
	}
	return nil
}

// maxLog is the size from which the monitor's own log is begun anew when the
// monitor starts.
const maxLog = 1 << 20

func openLog(path string) (*os.File, error) {
	if st, err := os.Lstat(path); err == nil && st.Size() > maxLog {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
}

func stageTwo(dir, cgroup string, ready *os.File) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	if err := prepare(); err != nil {
		return err
	}
	if cgroup != "" {
		if err := server.EnterCgroup(cgroup); err != nil {
			return err
		}
	}
	score := protectFromOOM(log)
	listener, err := protocol.Listen(dir)
	if err != nil {
		return err
	}
	s, err := server.New(server.Options{
		Dir: dir, Listener: listener, Lock: lock, OOMScoreAdj: score, Program: version, Logger: log,
	})
	if err != nil {
		return err
	}
	fmt.Fprint(ready, "ok")
	ready.Close()
	return s.Run()
}

// resume goes on where the program before has left, in the same process.
func resume(dir, fd string) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	number, err := strconv.Atoi(fd)
	if err != nil {
		return fmt.Errorf("read %s: %w", server.ResumeEnv, err)
	}
	if err := os.Unsetenv(server.ResumeEnv); err != nil {
		return err
	}
	from, err := server.ReadResume(number)
	if err != nil {
		return err
	}
	if err := prepare(); err != nil {
		return err
	}
	s, err := server.New(server.Options{
		Dir: dir, Listener: from.Listener, Lock: from.Lock, OOMScoreAdj: from.OOMScoreAdj,
		Program: version, Logger: log, Resume: from,
	})
	if err != nil {
		return err
	}
	return s.Run()
}

// prepare sets what a program has to set, be it the first of its process or not.
func prepare() error {
	// The directory's mode is what keeps others out; the mask is the one that
	// libcontainer makes mount points in containers with.
	unix.Umask(0o022)
	_ = os.WriteFile("/proc/self/comm", []byte("berth-monitor"), 0)
	logrus.SetOutput(os.Stderr)
	logrus.SetLevel(logrus.WarnLevel)
	// Not SIG_IGN, which containers would inherit. At shutdown they end first.
	signal.Notify(make(chan os.Signal, 1), unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	growDescriptorTable()
	// What init gets of our environment; one thread is all it uses.
	return os.Setenv("GOMAXPROCS", "1")
}

// lockDir takes the lock that only one monitor of a directory can have, and
// returns its descriptor.
func lockDir(dir string) (int, error) {
	path := filepath.Join(dir, protocol.LockName)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, &os.PathError{Op: "open lock", Path: path, Err: err}
	}
	err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return fd, nil
	}
	unix.Close(fd)
	if err == unix.EWOULDBLOCK {
		return -1, fmt.Errorf("another monitor serves %s", dir)
	}
	return -1, fmt.Errorf("lock %s: %w", path, err)
}

// protectFromOOM asks to be killed last, and returns the score that this process
// was started with. Without CAP_SYS_RESOURCE it may not ask.
func protectFromOOM(log *slog.Logger) int {
	const file, last = "/proc/self/oom_score_adj", "-999"
	data, err := os.ReadFile(file)
	if err != nil {
		log.Warn("read own OOM score", "error", err)
		return 0
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		log.Warn("read own OOM score", "error", err)
	}
	if err := os.WriteFile(file, []byte(last), 0); err != nil {
		log.Debug("lower own OOM score", "error", err)
	}
	return score
}

// growDescriptorTable makes the kernel allocate a large table at once. Growing
// it later, in a process with threads, waits for an RCU grace period each time.
func growDescriptorTable() {
	const size = 8192
	if fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, size-1); err == nil {
		unix.Close(fd)
	}
}
