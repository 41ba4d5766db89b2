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

// tracersOf returns the processes that trace those of a cgroup.
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
		if tracer, err := strconv.Atoi(value); err == nil && tracer > 0 {
			tracers = append(tracers, tracer)
		}
	}
	return tracers
}

// killTracers ends what traces the processes of a cgroup and is called criu. The kernel
// lets those go on then, and what CRIU has put into them goes when nobody talks to it.
func killTracers(paths map[string]string) {
	for _, pid := range tracersOf(paths) {
		if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); strings.TrimSpace(string(name)) == criuName {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// killCRIU ends the children of this process that are CRIU. Whoever calls it has
// Server.criu, so no other's is among them.
func killCRIU() {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		data, _ := os.ReadFile(list)
		for _, field := range strings.Fields(string(data)) {
			name, _ := os.ReadFile("/proc/" + field + "/comm")
			if pid, err := strconv.Atoi(field); err == nil && strings.TrimSpace(string(name)) == criuName {
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
