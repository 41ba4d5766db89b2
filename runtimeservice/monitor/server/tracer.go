package server

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tracerTime is how long CRIU may take to undo what it has done to the processes of a
	// container when its work is cut short.
	tracerTime     = 10 * time.Second
	tracerInterval = 20 * time.Millisecond
)

// untrace waits until CRIU has left the processes of a container, as it does by itself when
// it is done or nobody talks to it any more. It is ended where that takes too long: the
// kernel lets the processes go on then, and what CRIU has put into them goes too.
func untrace(paths map[string]string) {
	end := time.Now().Add(tracerTime)
	for {
		tracers := tracersOf(paths)
		if len(tracers) == 0 || time.Now().After(end.Add(tracerTime)) {
			return
		}
		if time.Now().After(end) {
			for _, pid := range tracers {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		time.Sleep(tracerInterval)
	}
}

// tracersOf returns the processes that trace those of a cgroup and are CRIU.
func tracersOf(paths map[string]string) []int {
	pids, err := processesOf(paths)
	if err != nil {
		return nil
	}
	var tracers []int
	for _, pid := range pids {
		value, err := statusOf(pid, "TracerPid")
		if err != nil {
			continue
		}
		if tracer, err := strconv.Atoi(value); err == nil && tracer > 0 && isCRIU(tracer) {
			tracers = append(tracers, tracer)
		}
	}
	return tracers
}

func isCRIU(pid int) bool {
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return strings.TrimSpace(string(name)) == criuName
}

// killCRIU ends the children of this process that are CRIU. Whoever calls it has
// Server.criu, so no other's is among them.
func killCRIU() {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		data, _ := os.ReadFile(list)
		for _, field := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil && isCRIU(pid) {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
}

// statusOf is the value of a line of /proc/PID/status.
func statusOf(pid int, key string) (string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && name == key {
			return strings.TrimSpace(value), nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", err
	}
	return "", fmt.Errorf("status of process %d has no %s", pid, key)
}
