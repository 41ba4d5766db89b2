package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// settleTime is waited before memory is read, so that garbage of the work just done is
// not taken for what the runtime keeps.
const settleTime = 5 * time.Second

// measureDensity takes what a runtime costs while many pods run: its memory, and the
// calls with which a kubelet watches them. The runtimes go one after the other, not in
// turn, since both would hold their pods at once otherwise.
func measureDensity(ctx context.Context, opts options, load workload, targets []*target, report *report) error {
	for _, t := range targets {
		time.Sleep(settleTime)
		idle, err := pss(t.processes)
		if err != nil {
			return err
		}
		report.add("memory of the runtime, idle", mebibytes, t, idle)
		pods, err := load.upMany(ctx, t, opts.pods, 4)
		if err == nil {
			err = densityRound(ctx, opts, t, idle, report)
		}
		if downErr := downMany(ctx, t, pods, 4); err == nil {
			err = downErr
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func densityRound(ctx context.Context, opts options, t *target, idle float64, report *report) error {
	time.Sleep(settleTime)
	full, err := pss(t.processes)
	if err != nil {
		return err
	}
	report.add("memory per pod", mebibytes, t, (full-idle)/float64(opts.pods))
	suffix := fmt.Sprintf(", %d pods", opts.pods)
	for range opts.samples {
		began := time.Now()
		if err := t.list(ctx); err != nil {
			return err
		}
		report.add("ListPodSandbox + ListContainers"+suffix, milliseconds, t, ms(time.Since(began)))
	}
	for range 5 {
		// A kubelet asks every ten seconds; what a runtime cached for less is not measured.
		time.Sleep(2 * time.Second)
		began := time.Now()
		if err := t.stats(ctx); err != nil {
			return err
		}
		report.add("ListContainerStats"+suffix, milliseconds, t, ms(time.Since(began)))
	}
	for range 5 {
		time.Sleep(2 * time.Second)
		began := time.Now()
		n, err := t.metrics(ctx)
		if status.Code(err) == codes.Unimplemented {
			break
		}
		if err != nil {
			return err
		}
		report.add("StreamPodSandboxMetrics"+suffix, milliseconds, t, ms(time.Since(began)))
		if n < opts.pods {
			return fmt.Errorf("%s: metrics of %d pods, %d run", t.name, n, opts.pods)
		}
	}
	busy, seconds := cpuBusy(), 10
	for range seconds {
		if err := t.list(ctx); err != nil {
			return err
		}
		time.Sleep(time.Second)
	}
	report.add("CPU while listed every second"+suffix, percent, t, (cpuBusy()-busy).Seconds()/float64(seconds)*100)
	return nil
}

func (t *target) list(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := t.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{}); err != nil {
		return fmt.Errorf("%s: list pod sandboxes: %w", t.name, err)
	}
	if _, err := t.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{}); err != nil {
		return fmt.Errorf("%s: list containers: %w", t.name, err)
	}
	return nil
}

// metrics reads the metrics of all pods, and returns of how many there are any.
func (t *target) metrics(ctx context.Context) (pods int, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	stream, err := t.runtime.StreamPodSandboxMetrics(ctx, &runtimeapi.StreamPodSandboxMetricsRequest{})
	if err != nil {
		return 0, fmt.Errorf("%s: stream metrics: %w", t.name, err)
	}
	for {
		page, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return pods, nil
		}
		if err != nil {
			return 0, fmt.Errorf("%s: stream metrics: %w", t.name, err)
		}
		pods += len(page.PodSandboxMetrics)
	}
}

func (t *target) stats(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := t.runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{}); err != nil {
		return fmt.Errorf("%s: list container stats: %w", t.name, err)
	}
	return nil
}
