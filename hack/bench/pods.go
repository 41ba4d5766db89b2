package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// workload is the pod that is measured: what a kubelet sends for an ordinary pod with
// one container.
type workload struct {
	image       string
	label       string // names the network in the table
	hostNetwork bool
}

// pod is one that runs.
type pod struct {
	sandbox   string
	container string
	logs      string
}

// phases are the durations of the calls that start or end one pod.
type phases struct {
	run, create, start time.Duration
}

func (p phases) total() time.Duration { return p.run + p.create + p.start }

func (w workload) sandboxConfig(logs string) *runtimeapi.PodSandboxConfig {
	network := runtimeapi.NamespaceMode_POD
	if w.hostNetwork {
		network = runtimeapi.NamespaceMode_NODE
	}
	name := make([]byte, 8)
	rand.Read(name)
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{
			Name: "bench-" + hex.EncodeToString(name), Namespace: "bench", Uid: hex.EncodeToString(name),
		},
		LogDirectory: logs,
		DnsConfig: &runtimeapi.DNSConfig{
			Servers: []string{"10.96.0.10"}, Searches: []string{"bench.svc.cluster.local"}, Options: []string{"ndots:5"},
		},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Network: network, Pid: runtimeapi.NamespaceMode_CONTAINER},
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
		},
	}
}

func (w workload) containerConfig(sandbox *runtimeapi.PodSandboxConfig) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "main"},
		Image:    &runtimeapi.ImageSpec{Image: w.image},
		Command:  []string{"sleep", "3600"},
		Envs:     []*runtimeapi.KeyValue{{Key: "KUBERNETES_SERVICE_HOST", Value: []byte("10.96.0.1")}},
		LogPath:  "main_0.log",
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{
				CpuPeriod: 100000, CpuQuota: 100000, CpuShares: 512, MemoryLimitInBytes: 128 << 20, OomScoreAdj: 900,
			},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: sandbox.Linux.SecurityContext.NamespaceOptions,
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
				MaskedPaths: []string{"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys",
					"/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"},
				ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			},
		},
	}
}

// up starts one pod and tells how long each call took.
func (w workload) up(ctx context.Context, t *target) (*pod, phases, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var took phases
	logs, err := os.MkdirTemp("", "bench-logs-")
	if err != nil {
		return nil, took, err
	}
	config := w.sandboxConfig(logs)
	began := time.Now()
	sandbox, err := t.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		return nil, took, fmt.Errorf("%s: run pod sandbox: %w", t.name, err)
	}
	p := &pod{sandbox: sandbox.PodSandboxId, logs: logs}
	took.run = lap(&began)
	container, err := t.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: p.sandbox, Config: w.containerConfig(config), SandboxConfig: config,
	})
	if err != nil {
		return p, took, fmt.Errorf("%s: create container: %w", t.name, err)
	}
	p.container = container.ContainerId
	took.create = lap(&began)
	if _, err := t.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: p.container}); err != nil {
		return p, took, fmt.Errorf("%s: start container: %w", t.name, err)
	}
	took.start = lap(&began)
	return p, took, nil
}

func lap(since *time.Time) time.Duration {
	now := time.Now()
	took := now.Sub(*since)
	*since = now
	return took
}

// down ends a pod as a kubelet does: stop and remove the container, then the sandbox.
func (p *pod) down(ctx context.Context, t *target) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	defer os.RemoveAll(p.logs)
	if p.container != "" {
		if _, err := t.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: p.container}); err != nil {
			return fmt.Errorf("%s: stop container: %w", t.name, err)
		}
	}
	if _, err := t.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.sandbox}); err != nil {
		return fmt.Errorf("%s: stop pod sandbox: %w", t.name, err)
	}
	if p.container != "" {
		if _, err := t.runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: p.container}); err != nil {
			return fmt.Errorf("%s: remove container: %w", t.name, err)
		}
	}
	if _, err := t.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.sandbox}); err != nil {
		return fmt.Errorf("%s: remove pod sandbox: %w", t.name, err)
	}
	return nil
}

// upMany starts n pods with that many clients at once. The pods that started are
// returned with the first error, so that the caller can end them.
func (w workload) upMany(ctx context.Context, t *target, n, clients int) ([]*pod, error) {
	return overMany(n, clients, func(int) (*pod, error) {
		p, _, err := w.up(ctx, t)
		return p, err
	})
}

func downMany(ctx context.Context, t *target, pods []*pod, clients int) error {
	_, err := overMany(len(pods), clients, func(i int) (*pod, error) { return nil, pods[i].down(ctx, t) })
	return err
}

// overMany calls one for 0 … n-1 from that many goroutines and collects what it returns.
func overMany(n, clients int, one func(i int) (*pod, error)) ([]*pod, error) {
	var (
		mu    sync.Mutex
		pods  []*pod
		first error
		next  int
		wg    sync.WaitGroup
	)
	for range clients {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := i >= n || first != nil
				mu.Unlock()
				if stop {
					return
				}
				p, err := one(i)
				mu.Lock()
				if p != nil {
					pods = append(pods, p)
				}
				if err != nil && first == nil {
					first = err
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return pods, first
}

// measurePods takes the latency and the CPU of starting and ending pods one at a time,
// then the rate at which eight clients start them.
func measurePods(ctx context.Context, opts options, load workload, targets []*target, report *report) error {
	suffix := ", " + load.label + " network"
	for range opts.rounds {
		for _, t := range targets {
			if err := podRound(ctx, opts.samples/opts.rounds, load, t, report, suffix); err != nil {
				return err
			}
		}
	}
	for range opts.rounds {
		for _, t := range targets {
			const pods, clients = 40, 8
			began := time.Now()
			running, err := load.upMany(ctx, t, pods, clients)
			took := time.Since(began)
			if downErr := downMany(ctx, t, running, clients); err == nil {
				err = downErr
			}
			if err != nil {
				return err
			}
			report.add("pods per second, 8 clients"+suffix, perSecond, t, float64(pods)/took.Seconds())
		}
	}
	return nil
}

// podRound starts n pods one after the other, then ends them.
func podRound(ctx context.Context, n int, load workload, t *target, report *report, suffix string) error {
	var pods []*pod
	busy := cpuBusy()
	for range n {
		p, took, err := load.up(ctx, t)
		if p != nil {
			pods = append(pods, p)
		}
		if err != nil {
			downMany(ctx, t, pods, 1)
			return err
		}
		report.add("pod up"+suffix, milliseconds, t, ms(took.total()))
		report.add("– RunPodSandbox"+suffix, milliseconds, t, ms(took.run))
		report.add("– CreateContainer"+suffix, milliseconds, t, ms(took.create))
		report.add("– StartContainer"+suffix, milliseconds, t, ms(took.start))
	}
	report.add("CPU per pod up"+suffix, milliseconds, t, ms(cpuBusy()-busy)/float64(n))
	busy = cpuBusy()
	for _, p := range pods {
		began := time.Now()
		if err := p.down(ctx, t); err != nil {
			return err
		}
		report.add("pod down"+suffix, milliseconds, t, ms(time.Since(began)))
	}
	report.add("CPU per pod down"+suffix, milliseconds, t, ms(cpuBusy()-busy)/float64(n))
	return nil
}

// measureExec takes the latency and the CPU of ExecSync in one running container.
func measureExec(ctx context.Context, opts options, load workload, targets []*target, report *report) error {
	for range opts.rounds {
		for _, t := range targets {
			p, _, err := load.up(ctx, t)
			if err == nil {
				err = execRound(ctx, opts.samples/opts.rounds, t, p, report)
			}
			if p != nil {
				if downErr := p.down(ctx, t); err == nil {
					err = downErr
				}
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func execRound(ctx context.Context, n int, t *target, p *pod, report *report) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	busy := cpuBusy()
	for range n {
		began := time.Now()
		resp, err := t.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: p.container, Cmd: []string{"true"}, Timeout: 30})
		if err != nil {
			return fmt.Errorf("%s: exec: %w", t.name, err)
		}
		if resp.ExitCode != 0 {
			return fmt.Errorf("%s: exec: exit code %d", t.name, resp.ExitCode)
		}
		report.add("ExecSync true", milliseconds, t, ms(time.Since(began)))
	}
	report.add("CPU per ExecSync", milliseconds, t, ms(cpuBusy()-busy)/float64(n))
	return nil
}
