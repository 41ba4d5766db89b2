package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
)

const defaultStopTimeout = 10 * time.Second

func (a *app) stopCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "stop CONTAINER|POD...",
		Short: "Stop containers, or pods with all their containers",
		Long: `Stop containers: each gets its stop signal and, if it has not ended after the
timeout, SIGKILL. A pod gives its addresses back. Stopping what is stopped is no
error. A container made by ` + "`berth run`" + ` is stopped with its pod.`,
		Args:              minArgs(1, "containers or pods"),
		ValidArgsFunction: a.completeContainersAndPods(0),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			return a.each(args, func(ref string) error {
				return stopOne(ctx, c, ref, timeout)
			})
		}),
	}
	durationVarP(cmd.Flags(), &timeout, "time", "t", defaultStopTimeout, "how long a container has until it is killed")
	return cmd
}

// each does something for every argument, prints those that succeeded and
// returns the errors of the others.
func (a *app) each(args []string, do func(ref string) error) error {
	var errs []error
	for _, ref := range args {
		if err := do(ref); err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintln(a.stdout, ref)
	}
	return errors.Join(errs...)
}

func stopOne(ctx context.Context, c *client.Client, ref string, timeout time.Duration) error {
	ctr, pod, err := c.ContainerOrPod(ctx, ref)
	if err != nil {
		return err
	}
	if pod != nil {
		return stopPod(ctx, c, pod.Id, timeout)
	}
	if isRun(ctr.Labels) {
		return stopPod(ctx, c, ctr.PodSandboxId, timeout)
	}
	return stopContainer(ctx, c, ctr.Id, timeout)
}

func stopContainer(ctx context.Context, c *client.Client, id string, timeout time.Duration) error {
	seconds := int64((timeout + time.Second - 1) / time.Second)
	_, err := c.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: seconds})
	if err != nil {
		return fmt.Errorf("stop container %s: %w", client.Short(id), err)
	}
	return nil
}

// stopPod stops a pod's running containers first, because StopPodSandbox gives
// them no time.
func stopPod(ctx context.Context, c *client.Client, id string, timeout time.Duration) error {
	list, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{
		PodSandboxId: id,
		State:        &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	}})
	if err != nil {
		return fmt.Errorf("list containers of pod %s: %w", client.Short(id), err)
	}
	for _, ctr := range list.Containers {
		if err := stopContainer(ctx, c, ctr.Id, timeout); err != nil {
			return err
		}
	}
	if _, err := c.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("stop pod %s: %w", client.Short(id), err)
	}
	return nil
}
