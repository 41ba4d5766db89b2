package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
)

func (a *app) metricsCommand() *cobra.Command {
	var pod string
	cmd := &cobra.Command{
		Use:   "metrics [NAME...]",
		Short: "Show the metrics of pods and containers that the kubelet passes on",
		Long: `Show the metrics of the ready pods and their containers in the text format of
Prometheus, as the runtime gives them to the kubelet. With names, only those
metrics.`,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, c *client.Client, names []string) error {
			return a.metrics(ctx, c, pod, names)
		}),
	}
	cmd.Flags().StringVarP(&pod, "pod", "p", "", "only this pod")
	_ = cmd.RegisterFlagCompletionFunc("pod", a.completePods(1))
	return cmd
}

func (a *app) metrics(ctx context.Context, c *client.Client, pod string, names []string) error {
	if pod != "" {
		found, err := c.Pod(ctx, pod)
		if err != nil {
			return err
		}
		pod = found.Id
	}
	described, err := c.Runtime.ListMetricDescriptors(ctx, &runtimeapi.ListMetricDescriptorsRequest{})
	if err != nil {
		return fmt.Errorf("list metric descriptors: %w", err)
	}
	descriptors := make(map[string]*runtimeapi.MetricDescriptor)
	for _, d := range described.GetDescriptors() {
		if len(names) == 0 || slices.Contains(names, d.GetName()) {
			descriptors[d.GetName()] = d
		}
	}
	for _, name := range names {
		if descriptors[name] == nil {
			return fmt.Errorf("the runtime has no metric %q; `berth metrics` shows those it has", name)
		}
	}
	samples, err := readMetrics(ctx, c, pod)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(descriptors)) {
		if err := printMetric(a.stdout, descriptors[name], samples[name]); err != nil {
			return err
		}
	}
	return nil
}

// readMetrics returns the samples by the name of their metric, of one pod or of
// all.
func readMetrics(ctx context.Context, c *client.Client, pod string) (map[string][]*runtimeapi.Metric, error) {
	stream, err := c.Runtime.StreamPodSandboxMetrics(ctx, &runtimeapi.StreamPodSandboxMetricsRequest{})
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	samples := make(map[string][]*runtimeapi.Metric)
	add := func(metrics []*runtimeapi.Metric) {
		for _, m := range metrics {
			samples[m.GetName()] = append(samples[m.GetName()], m)
		}
	}
	for {
		page, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return samples, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read metrics: %w", err)
		}
		for _, p := range page.GetPodSandboxMetrics() {
			if pod != "" && p.GetPodSandboxId() != pod {
				continue
			}
			add(p.GetMetrics())
			for _, container := range p.GetContainerMetrics() {
				add(container.GetMetrics())
			}
		}
	}
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func printMetric(w io.Writer, d *runtimeapi.MetricDescriptor, samples []*runtimeapi.Metric) error {
	if len(samples) == 0 {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", d.GetName(), strings.ReplaceAll(d.GetHelp(), "\n", " "),
		d.GetName(), strings.ToLower(samples[0].GetMetricType().String()))
	for _, m := range samples {
		var labels []string
		for i, value := range m.GetLabelValues() {
			if i < len(d.GetLabelKeys()) {
				labels = append(labels, d.GetLabelKeys()[i]+`="`+labelEscapes.Replace(value)+`"`)
			}
		}
		fmt.Fprintf(&b, "%s{%s} %d\n", m.GetName(), strings.Join(labels, ","), m.GetValue().GetValue())
	}
	_, err := io.WriteString(w, b.String())
	return err
}
