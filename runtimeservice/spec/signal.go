package spec

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	signalRealtimeMin = 34
	signalRealtimeMax = 64
)

// stopSignal gives the signal that asks a container to end: the request's, else
// the image's, else SIGTERM.
func stopSignal(c *runtimeapi.ContainerConfig, image string) (syscall.Signal, error) {
	if s := c.GetStopSignal(); s != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		name, known := runtimeapi.Signal_name[int32(s)]
		sig, ok := ParseSignal(strings.TrimPrefix(name, "SIGNAL_"))
		if !known || !ok {
			return 0, invalid("config.stop_signal", "unknown signal %d", s)
		}
		return sig, nil
	}
	if image == "" {
		return syscall.SIGTERM, nil
	}
	sig, ok := ParseSignal(image)
	if !ok {
		return 0, invalid("image stop signal", "%q is not a signal", image)
	}
	return sig, nil
}

// signalAliases are the names that stand for a number with another name.
var signalAliases = map[string]syscall.Signal{
	"SIGCLD":  unix.SIGCHLD,
	"SIGIOT":  unix.SIGABRT,
	"SIGPOLL": unix.SIGIO,
}

// ParseSignal reads a signal as images and CRI name them: "15", "TERM",
// "SIGTERM", "SIGRTMIN+3", "SIGRTMINPLUS3". It reports false for anything else.
func ParseSignal(s string) (syscall.Signal, bool) {
	if n, err := strconv.Atoi(s); err == nil {
		return syscall.Signal(n), n > 0 && n <= signalRealtimeMax
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if rest, ok := strings.CutPrefix(name, "SIGRTMIN"); ok {
		n, ok := realtimeOffset(rest, "+", "PLUS")
		return syscall.Signal(signalRealtimeMin + n), ok
	}
	if rest, ok := strings.CutPrefix(name, "SIGRTMAX"); ok {
		n, ok := realtimeOffset(rest, "-", "MINUS")
		return syscall.Signal(signalRealtimeMax - n), ok
	}
	if sig, ok := signalAliases[name]; ok {
		return sig, true
	}
	sig := unix.SignalNum(name)
	return sig, sig != 0
}

func realtimeOffset(s, sign, word string) (int, bool) {
	if s == "" {
		return 0, true
	}
	digits, ok := strings.CutPrefix(s, sign)
	if !ok {
		if digits, ok = strings.CutPrefix(s, word); !ok {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(digits, 10, 8)
	return int(n), err == nil && n <= signalRealtimeMax-signalRealtimeMin
}

// SignalEnum gives CRI's name of a signal, as ContainerStatus shows it; a signal
// that CRI does not know is SIGNAL_RUNTIME_DEFAULT.
func SignalEnum(sig syscall.Signal) runtimeapi.Signal {
	if sig >= signalRealtimeMin && sig <= signalRealtimeMax {
		return runtimeapi.Signal_SIGNAL_SIGRTMIN + runtimeapi.Signal(sig-signalRealtimeMin)
	}
	return runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+unix.SignalName(sig)])
}
