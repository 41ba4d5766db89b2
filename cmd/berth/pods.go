package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/output"
)

func podStates() map[string]runtimeapi.PodSandboxState {
	return map[string]runtimeapi.PodSandboxState{
		"ready":    runtimeapi.PodSandboxState_SANDBOX_READY,
		"notready": runtimeapi.PodSandboxState_SANDBOX_NOTREADY,
	}
}

func podStateName(s runtimeapi.PodSandboxState) string {
	if s == runtimeapi.PodSandboxState_SANDBOX_READY {
		return "Ready"
	}
	return "NotReady"
}

func (a *app) podsCommand() *cobra.Command {
	var flags listFlags
	var namespace string
	var format output.Format
	cmd := &cobra.Command{
		Use:               "pods",
		Short:             "List pods",
		Args:              noArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, c *client.Client, _ []string) error {
			pods, err := listPods(ctx, c, &flags, namespace)
			if err != nil {
				return err
			}
			return a.printPods(pods, &flags, format)
		}),
	}
	flags.add(cmd, "pod", stateNames(podStates()))
	cmd.Flags().StringVar(&namespace, "namespace", "", "only pods whose namespace matches this regular expression")
	outputFlag(cmd, &format, output.Table)
	return cmd
}

// listPods returns the pods that the flags ask for, newest first.
func listPods(ctx context.Context, c *client.Client, flags *listFlags, namespace string) ([]*runtimeapi.PodSandbox, error) {
	newest, err := flags.newest()
	if err != nil {
		return nil, err
	}
	filter := &runtimeapi.PodSandboxFilter{Id: flags.id}
	if filter.LabelSelector, err = flags.selector(); err != nil {
		return nil, err
	}
	if flags.state != "" {
		state, err := parseState(flags.state, podStates())
		if err != nil {
			return nil, err
		}
		filter.State = &runtimeapi.PodSandboxStateValue{State: state}
	}
	nameMatches, err := matcher("name", flags.name)
	if err != nil {
		return nil, err
	}
	namespaceMatches, err := matcher("namespace", namespace)
	if err != nil {
		return nil, err
	}
	list, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: filter})
	if err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	pods := slices.DeleteFunc(list.Items, func(p *runtimeapi.PodSandbox) bool {
		return !nameMatches(p.GetMetadata().GetName()) || !namespaceMatches(p.GetMetadata().GetNamespace())
	})
	slices.SortStableFunc(pods, func(x, y *runtimeapi.PodSandbox) int { return cmp.Compare(y.CreatedAt, x.CreatedAt) })
	return firstN(pods, newest), nil
}

func firstN[T any](list []T, n int) []T {
	if n > 0 && len(list) > n {
		return list[:n]
	}
	return list
}

func (a *app) printPods(pods []*runtimeapi.PodSandbox, flags *listFlags, format output.Format) error {
	if flags.quiet {
		for _, p := range pods {
			fmt.Fprintln(a.stdout, p.Id)
		}
		return nil
	}
	if format != output.Table {
		return output.Data(a.stdout, format, &runtimeapi.ListPodSandboxResponse{Items: pods})
	}
	rows := make([][]string, 0, len(pods))
	for _, p := range pods {
		handler := p.RuntimeHandler
		if handler == "" {
			handler = "(default)"
		}
		m := p.GetMetadata()
		rows = append(rows, []string{
			shortID(p.Id, flags.noTrunc), output.Ago(a.now(), time.Unix(0, p.CreatedAt)), podStateName(p.State),
			m.GetName(), m.GetNamespace(), strconv.Itoa(int(m.GetAttempt())), handler,
		})
	}
	return output.Rows(a.stdout, []string{"POD ID", "CREATED", "STATE", "NAME", "NAMESPACE", "ATTEMPT", "RUNTIME"}, rows)
}

func shortID(id string, whole bool) string {
	if whole {
		return strings.TrimPrefix(id, "sha256:")
	}
	return client.Short(id)
}
