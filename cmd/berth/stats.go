package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/output"
	"github.com/berth-cri/berth/cmd/berth/internal/streams"
)

const clearScreen = "\x1b[H\x1b[2J"

type statsFlags struct {
	pod              string
	labels           []string
	pods, watch      bool
	noTrunc          bool
	interval         time.Duration
	format           output.Format
	containerFilters []string
}

func (a *app) statsCommand() *cobra.Command {
	var flags statsFlags
	cmd := &cobra.Command{
		Use:   "stats [CONTAINER...]",
		Short: "Show what containers or pods use of CPU, memory and disk",
		Long: `Show what running containers, or with --pods pods, use. CPU % is of one core. A
runtime that does not report it is asked twice, an interval apart.`,
		ValidArgsFunction: a.completeContainers(0),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			flags.containerFilters = args
			return a.stats(ctx, c, &flags)
		}),
	}
	cmd.Flags().StringVarP(&flags.pod, "pod", "p", "", "only this pod")
	cmd.Flags().StringArrayVar(&flags.labels, "label", nil, "only what has this label, KEY=VALUE; may be repeated")
	cmd.Flags().BoolVar(&flags.pods, "pods", false, "show pods, with their network, instead of containers")
	cmd.Flags().BoolVarP(&flags.watch, "watch", "w", false, "show again and again until Ctrl-C")
	durationVarP(cmd.Flags(), &flags.interval, "interval", "", time.Second, "how long between two samples")
	cmd.Flags().BoolVar(&flags.noTrunc, "no-trunc", false, "do not shorten IDs")
	_ = cmd.RegisterFlagCompletionFunc("pod", a.completePods(1))
	outputFlag(cmd, &flags.format, output.Table)
	return cmd
}

// sample is one reading, as rows of a table and as the answer it came from.
type sample struct {
	header []string
	rows   [][]string
	answer any
	// cpu is each row's CPU counter, by ID.
	cpu map[string]*runtimeapi.CpuUsage
	// needsSecond is set where a CPU share cannot be told from one reading.
	needsSecond bool
}

func (a *app) stats(ctx context.Context, c *client.Client, flags *statsFlags) error {
	read, err := a.sampler(ctx, c, flags)
	if err != nil {
		return err
	}
	current, err := read(ctx, nil)
	if err != nil {
		return err
	}
	if flags.format == output.Table && current.needsSecond && !flags.watch {
		if current, err = a.again(ctx, read, current, flags.interval); err != nil {
			return err
		}
	}
	for {
		if err := a.printSample(current, flags); err != nil || !flags.watch {
			return err
		}
		if current, err = a.again(ctx, read, current, flags.interval); err != nil {
			return err
		}
	}
}

// readStats takes one sample; before is the last one, nil at first.
type readStats func(ctx context.Context, before *sample) (*sample, error)

func (a *app) again(ctx context.Context, read readStats, before *sample, interval time.Duration) (*sample, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(interval):
	}
	return read(ctx, before)
}

func (a *app) printSample(s *sample, flags *statsFlags) error {
	if flags.format == output.JSON && flags.watch {
		return output.Line(a.stdout, s.answer)
	}
	if flags.format != output.Table {
		return output.Data(a.stdout, flags.format, s.answer)
	}
	if flags.watch && streams.IsTerminal(a.stdout) {
		fmt.Fprint(a.stdout, clearScreen)
	}
	return output.Rows(a.stdout, s.header, s.rows)
}

func (a *app) sampler(ctx context.Context, c *client.Client, flags *statsFlags) (readStats, error) {
	labels, err := parsePairs("label", flags.labels)
	if err != nil {
		return nil, err
	}
	podID := ""
	if flags.pod != "" {
		pod, err := c.Pod(ctx, flags.pod)
		if err != nil {
			return nil, err
		}
		podID = pod.Id
	}
	if flags.pods {
		filter := &runtimeapi.PodSandboxStatsFilter{Id: podID, LabelSelector: labels}
		return func(ctx context.Context, before *sample) (*sample, error) {
			return samplePods(ctx, c, filter, flags, before)
		}, nil
	}
	var ids []string
	for _, ref := range flags.containerFilters {
		ctr, err := c.Container(ctx, ref)
		if err != nil {
			return nil, err
		}
		ids = append(ids, ctr.Id)
	}
	filter := &runtimeapi.ContainerStatsFilter{PodSandboxId: podID, LabelSelector: labels}
	return func(ctx context.Context, before *sample) (*sample, error) {
		return sampleContainers(ctx, c, filter, ids, flags, before)
	}, nil
}

func sampleContainers(ctx context.Context, c *client.Client, filter *runtimeapi.ContainerStatsFilter, ids []string, flags *statsFlags, before *sample) (*sample, error) {
	resp, err := c.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("read container stats: %w", err)
	}
	resp.Stats = slices.DeleteFunc(resp.Stats, func(s *runtimeapi.ContainerStats) bool {
		return len(ids) > 0 && !slices.Contains(ids, s.GetAttributes().GetId())
	})
	slices.SortFunc(resp.Stats, func(x, y *runtimeapi.ContainerStats) int {
		return cmp.Compare(x.GetAttributes().GetMetadata().GetName(), y.GetAttributes().GetMetadata().GetName())
	})
	s := &sample{
		header: []string{"CONTAINER", "NAME", "CPU %", "MEM", "DISK", "INODES"},
		answer: resp, cpu: map[string]*runtimeapi.CpuUsage{},
	}
	for _, st := range resp.Stats {
		id := st.GetAttributes().GetId()
		s.rows = append(s.rows, []string{
			shortID(id, flags.noTrunc), st.GetAttributes().GetMetadata().GetName(), s.share(id, st.Cpu, before),
			bytesOf(memoryOf(st.Memory)), bytesOf(st.GetWritableLayer().GetUsedBytes()), countOf(st.GetWritableLayer().GetInodesUsed()),
		})
	}
	return s, nil
}

func samplePods(ctx context.Context, c *client.Client, filter *runtimeapi.PodSandboxStatsFilter, flags *statsFlags, before *sample) (*sample, error) {
	resp, err := c.Runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("read pod stats: %w", err)
	}
	slices.SortFunc(resp.Stats, func(x, y *runtimeapi.PodSandboxStats) int {
		return cmp.Compare(x.GetAttributes().GetMetadata().GetName(), y.GetAttributes().GetMetadata().GetName())
	})
	s := &sample{
		header: []string{"POD ID", "NAME", "NAMESPACE", "CPU %", "MEM", "PROCESSES", "NET RX", "NET TX"},
		answer: resp, cpu: map[string]*runtimeapi.CpuUsage{},
	}
	for _, st := range resp.Stats {
		id, m, linux := st.GetAttributes().GetId(), st.GetAttributes().GetMetadata(), st.GetLinux()
		s.rows = append(s.rows, []string{
			shortID(id, flags.noTrunc), m.GetName(), m.GetNamespace(), s.share(id, linux.GetCpu(), before),
			bytesOf(memoryOf(linux.GetMemory())), countOf(linux.GetProcess().GetProcessCount()),
			bytesOf(linux.GetNetwork().GetDefaultInterface().GetRxBytes()), bytesOf(linux.GetNetwork().GetDefaultInterface().GetTxBytes()),
		})
	}
	return s, nil
}

// share is the CPU use of a row in percent of one core: what the runtime says,
// or what the counters of two samples say.
func (s *sample) share(id string, usage *runtimeapi.CpuUsage, before *sample) string {
	s.cpu[id] = usage
	if usage == nil {
		return "-"
	}
	const nanoCoresPerPercent = 1e7
	if usage.UsageNanoCores != nil {
		return strconv.FormatFloat(float64(usage.UsageNanoCores.Value)/nanoCoresPerPercent, 'f', 2, 64)
	}
	if before == nil || before.cpu[id] == nil {
		s.needsSecond = true
		return "-"
	}
	old := before.cpu[id]
	elapsed := usage.Timestamp - old.Timestamp
	used := usage.GetUsageCoreNanoSeconds().GetValue() - old.GetUsageCoreNanoSeconds().GetValue()
	if elapsed <= 0 || usage.GetUsageCoreNanoSeconds().GetValue() < old.GetUsageCoreNanoSeconds().GetValue() {
		return "-"
	}
	return strconv.FormatFloat(100*float64(used)/float64(elapsed), 'f', 2, 64)
}

// memoryOf is the working set, which is what limits and evictions go by.
func memoryOf(m *runtimeapi.MemoryUsage) *runtimeapi.UInt64Value {
	if m.GetWorkingSetBytes() != nil {
		return m.WorkingSetBytes
	}
	return m.GetUsageBytes()
}

func bytesOf(v *runtimeapi.UInt64Value) string {
	if v == nil {
		return "-"
	}
	return output.Size(v.Value)
}

func countOf(v *runtimeapi.UInt64Value) string {
	if v == nil {
		return "-"
	}
	return strconv.FormatUint(v.Value, 10)
}
