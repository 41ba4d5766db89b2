// Package systemd tells a service manager how the daemon is doing, over the
// datagram socket of sd_notify(3).
package systemd

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier sends messages to the service manager that started the daemon; one
// without a manager does nothing.
type Notifier struct {
	socket   string
	watchdog time.Duration
}

// FromEnvironment takes what the service manager left in the environment, and
// removes it from there: it is meant for this process, not for its children.
func FromEnvironment() (*Notifier, error) {
	n := &Notifier{socket: take("NOTIFY_SOCKET")}
	usec, pid := take("WATCHDOG_USEC"), take("WATCHDOG_PID")
	if usec == "" || (pid != "" && pid != strconv.Itoa(os.Getpid())) {
		return n, nil
	}
	interval, err := strconv.ParseInt(usec, 10, 64)
	if err != nil || interval <= 0 {
		return nil, fmt.Errorf("watchdog interval: WATCHDOG_USEC=%q is not a number of microseconds", usec)
	}
	n.watchdog = time.Duration(interval) * time.Microsecond
	return n, nil
}

func take(name string) string {
	value := os.Getenv(name)
	os.Unsetenv(name)
	return value
}

// Ready says that start-up, or a reload, is over. The status is for people.
func (n *Notifier) Ready(status string) error { return n.send("READY=1", "STATUS="+status) }

// Reloading says that a reload begins; Ready ends it. The time lets the manager
// tell which of its requests the reload answers.
func (n *Notifier) Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read the monotonic clock: %w", err)
	}
	return n.send("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000))
}

// Stopping says that the daemon ends by itself or was asked to.
func (n *Notifier) Stopping() error { return n.send("STOPPING=1", "STATUS=stopping") }

// KeepAlive sends signs of life, two for each interval that the manager allows,
// as long as alive returns nil; until ctx ends. The manager restarts a daemon
// whose signs of life stay away. Without a watchdog it returns at once.
func (n *Notifier) KeepAlive(ctx context.Context, log *slog.Logger, alive func(context.Context) error) {
	if n.socket == "" || n.watchdog == 0 {
		return
	}
	tick := time.NewTicker(n.watchdog / 2)
	defer tick.Stop()
	for {
		n.signOfLife(ctx, log, alive)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (n *Notifier) signOfLife(ctx context.Context, log *slog.Logger, alive func(context.Context) error) {
	// A check that takes longer than this would delay the next sign of life.
	checking, cancel := context.WithTimeout(ctx, n.watchdog/4)
	defer cancel()
	if err := alive(checking); err != nil {
		if ctx.Err() == nil {
			log.Warn("not healthy, no sign of life for the watchdog", "error", err)
		}
		return
	}
	if err := n.send("WATCHDOG=1"); err != nil {
		log.Warn("watchdog", "error", err)
	}
}

// send sends one message of several assignments.
func (n *Notifier) send(assignments ...string) error {
	if n.socket == "" {
		return nil
	}
	// A name that begins with @ is one in the abstract namespace, for Go too.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(strings.Join(assignments, "\n"))); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}
