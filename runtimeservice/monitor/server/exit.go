package server

import (
	"fmt"
	"syscall"
	"time"

	"github.com/berth-cri/berth/runtimeservice/monitor/pidfd"
	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// unknownCode is the exit code of a process whose real one nobody can tell.
const unknownCode = 255

// exitOf finds out how a process that has ended did so. process is nil where
// this monitor has not started it.
func (s *Server) exitOf(fd int, rec record, process waiter) *protocol.Exit {
	exit := &protocol.Exit{ID: rec.ID, ExitedAt: time.Now()}
	status, err := waitStatus(fd, rec.Pid, process)
	if err != nil {
		exit.Code, exit.Unknown = unknownCode, true
		exit.Reason = fmt.Sprintf("the monitor was restarted while the container ran: %v", err)
		return exit
	}
	exit.Code = pidfd.Code(status)
	return exit
}

// waitStatus takes the status of a child, or asks the kernel for that of
// another's. After the death of the monitor the node's init is the parent; it
// reaps, and from then on the kernel tells.
func waitStatus(fd, pid int, process waiter) (syscall.WaitStatus, error) {
	if process != nil {
		state, _ := process.Wait()
		if state != nil {
			if status, ok := state.Sys().(syscall.WaitStatus); ok {
				return status, nil
			}
		}
	}
	if status, ok, err := pidfd.Reap(fd); err == nil && ok {
		return status, nil
	}
	const tries = 20
	for i := 0; ; i++ {
		status, err := pidfd.Status(fd, pid)
		if err == nil || i == tries {
			return status, err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
