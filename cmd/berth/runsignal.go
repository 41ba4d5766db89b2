package main

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// signalName is empty for what is no signal.
func signalName(n int) string { return unix.SignalName(syscall.Signal(n)) }

// endSignals delivers the signals by which a person or a service manager asks
// berth to end.
func endSignals() (signals chan os.Signal, stop func()) {
	signals = make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	return signals, func() { signal.Stop(signals) }
}

// onSignal calls do at each signal until stop is called, which waits for a call
// that runs.
func onSignal(signals <-chan os.Signal, do func()) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-signals:
				do()
			case <-quit:
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}
