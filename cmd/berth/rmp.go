package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
)

func (a *app) rmpCommand() *cobra.Command {
	var all, force bool
	cmd := &cobra.Command{
		Use:   "rmp POD...",
		Short: "Remove pods and their containers",
		Long: `Remove pods and their containers. A pod that is ready is refused unless -f is
given, which kills what runs in it.`,
		Args:              argsOrAll(&all, "pods"),
		ValidArgsFunction: a.completePods(0),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			if all {
				return a.rmpAll(ctx, c, force)
			}
			return a.each(args, func(ref string) error {
				pod, err := c.Pod(ctx, ref)
				if err != nil {
					return err
				}
				if isReady(pod) && !force {
					return client.WithHint(
						fmt.Errorf("pod %q is ready", pod.GetMetadata().GetName()),
						"stop it first, or remove it with -f")
				}
				return removePod(ctx, c, pod.Id)
			})
		}),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "all pods that are not ready; with -f all pods")
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also pods that are ready")
	return cmd
}

func isReady(pod *runtimeapi.PodSandbox) bool {
	return pod.State == runtimeapi.PodSandboxState_SANDBOX_READY
}

func (a *app) rmpAll(ctx context.Context, c *client.Client, force bool) error {
	list, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	var errs []error
	for _, pod := range list.Items {
		if isReady(pod) && !force {
			continue
		}
		if err := removePod(ctx, c, pod.Id); err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintln(a.stdout, pod.Id)
	}
	return errors.Join(errs...)
}

// removePod stops and removes a pod with its containers, and the log folder that
// `berth run` made for it. Repeating it is no error.
func removePod(ctx context.Context, c *client.Client, id string) error {
	logs, err := runLogDirectories(ctx, c, id)
	if err != nil {
		return err
	}
	if _, err := c.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("stop pod %s: %w", client.Short(id), err)
	}
	if _, err := c.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("remove pod %s: %w", client.Short(id), err)
	}
	for _, dir := range logs {
		if err := removeLogDirectory(dir); err != nil {
			return err
		}
	}
	return nil
}
