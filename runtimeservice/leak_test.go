package runtimeservice

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/berth-cri/berth/runtimeservice/monitor"
)

// TestNoGoroutineIsLeft goes through all that can start one, with all outcomes.
func TestNoGoroutineIsLeft(t *testing.T) {
	n := newNode(t)
	s, stop := n.start()
	round := func(i int) {
		config := podConfig(fmt.Sprint("pod", i))
		n.on("attach", boom)
		_, _ = s.RunPodSandbox(t.Context(), config, "")
		n.off("attach")
		pod := mustRun(t, s, config)
		n.on("mount", boom)
		_, _ = s.CreateContainer(t.Context(), pod, containerConfig("app"), nil)
		n.off("mount")
		n.on("start", boom)
		_ = s.StartContainer(t.Context(), mustCreate(t, s, pod, "app"))
		n.off("start")
		id := mustStart(t, s, pod, "other")
		n.monitor.process(id).stubborn = true
		execs(t, n, func(in, out, errOut *os.File, e *fakeExecution) {
			closeAll(in, out, errOut)
			e.exited <- monitor.Exit{}
		})
		_ = s.Exec(t.Context(), id, []string{"x"}, strings.NewReader(""), &writeCloser{}, nil, false, nil)
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_ = s.StopContainer(impatient, id, time.Hour)
		cancel()
		if err := s.RemovePodSandbox(t.Context(), pod); err != nil {
			t.Error(err)
		}
	}
	round(0)
	<-s.background.ended()
	before := runtime.NumGoroutine()
	for i := range 20 {
		round(i)
	}
	<-s.background.ended()
	eventually(t, "as many goroutines as before", func() bool { return runtime.NumGoroutine() <= before })
	stop()
	n.assertEmpty()
}
