package cni

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// endLeftoverPlugins kills plugins, and what they started, that an earlier run of this program
// left behind when it was killed. A DEL that ran beside such an ADD could come too early.
func (n *Networks) endLeftoverPlugins(debts []*debt) {
	ours := make(map[string]bool, len(debts))
	for _, d := range debts {
		ours[d.PodID] = true
	}
	environs, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		n.logger.Warn("look for leftover plugins", "error", err)
		return
	}
	for _, path := range environs {
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil || pid == os.Getpid() || !ours[containerOf(path)] {
			continue
		}
		if err := killIf(pid, func() bool { return ours[containerOf(path)] }); err != nil {
			n.logger.Warn("end leftover plugin", "pid", pid, "error", err)
			continue
		}
		n.logger.Info("ended a plugin of an earlier run", "pid", pid)
	}
}

// containerOf returns the CNI_CONTAINERID that a process was started with, or "".
func containerOf(environ string) string {
	data, err := os.ReadFile(environ)
	if err != nil {
		return ""
	}
	var id string
	command := false
	for entry := range bytes.SplitSeq(data, []byte{0}) {
		if value, ok := bytes.CutPrefix(entry, []byte("CNI_CONTAINERID=")); ok {
			id = string(value)
		}
		command = command || bytes.HasPrefix(entry, []byte("CNI_COMMAND="))
	}
	if !command {
		return ""
	}
	return id
}

// killIf kills a process if still is true of the one that a pidfd holds, so that a process
// which got the number since is safe, and waits a moment for its end.
func killIf(pid int, still func() bool) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open process: %w", err)
	}
	defer unix.Close(pidfd)
	if !still() {
		return nil
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	if _, err := unix.Poll(poll, int(killGrace.Milliseconds())); err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	return nil
}
