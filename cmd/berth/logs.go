package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/crilog"
)

type logsFlags struct {
	follow, timestamps, previous bool
	tail                         int
	since, until                 string
}

func (a *app) logsCommand() *cobra.Command {
	var flags logsFlags
	cmd := &cobra.Command{
		Use:               "logs [flags] CONTAINER",
		Short:             "Show what a container wrote",
		Args:              exactly(1, "a container"),
		ValidArgsFunction: a.completeContainers(1),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			ctr, err := c.Container(ctx, args[0])
			if err != nil {
				return err
			}
			if flags.previous {
				if ctr, err = previousAttempt(ctx, c, ctr); err != nil {
					return err
				}
			}
			return a.logs(ctx, c, ctr, &flags)
		}),
	}
	cmd.Flags().BoolVarP(&flags.follow, "follow", "f", false, "go on until the container ends")
	cmd.Flags().BoolVarP(&flags.timestamps, "timestamps", "t", false, "show when each line was written")
	cmd.Flags().BoolVarP(&flags.previous, "previous", "p", false, "show the container's previous run")
	cmd.Flags().IntVar(&flags.tail, "tail", -1, "only the last `N` lines; -1 is all")
	cmd.Flags().StringVar(&flags.since, "since", "", "only lines since a time (RFC 3339) or a while ago (like 10m)")
	cmd.Flags().StringVar(&flags.until, "until", "", "only lines until a time (RFC 3339) or a while ago (like 10m)")
	return cmd
}

// previousAttempt finds the run of the same container before this one.
func previousAttempt(ctx context.Context, c *client.Client, ctr *runtimeapi.Container) (*runtimeapi.Container, error) {
	list, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{
		Filter: &runtimeapi.ContainerFilter{PodSandboxId: ctr.PodSandboxId},
	})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var previous *runtimeapi.Container
	for _, other := range list.Containers {
		m := other.GetMetadata()
		if m.GetName() != ctr.GetMetadata().GetName() || m.GetAttempt() >= ctr.GetMetadata().GetAttempt() {
			continue
		}
		if previous == nil || m.GetAttempt() > previous.GetMetadata().GetAttempt() {
			previous = other
		}
	}
	if previous == nil {
		return nil, client.WithHint(
			fmt.Errorf("container %q has no previous run", ctr.GetMetadata().GetName()),
			"`berth ps -a` shows the runs that are kept, in the column ATTEMPT")
	}
	return previous, nil
}

func (a *app) logs(ctx context.Context, c *client.Client, ctr *runtimeapi.Container, flags *logsFlags) error {
	printer := &crilog.Printer{Out: a.stdout, Err: a.stderr, Timestamps: flags.timestamps}
	var err error
	if printer.Since, err = parseWhen("since", flags.since, a.now()); err != nil {
		return err
	}
	if printer.Until, err = parseWhen("until", flags.until, a.now()); err != nil {
		return err
	}
	resp, err := c.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: ctr.Id})
	if err != nil {
		return fmt.Errorf("look up the log of %q: %w", ctr.GetMetadata().GetName(), err)
	}
	path := resp.Status.GetLogPath()
	if path == "" {
		return fmt.Errorf("container %q keeps no log: it was created without a log path", ctr.GetMetadata().GetName())
	}
	opts := crilog.Options{Tail: flags.tail, Follow: flags.follow}
	if flags.follow {
		done := make(chan struct{})
		opts.Done = done
		go func() {
			// However the wait ends, nothing more is to be expected.
			_, _ = waitExit(ctx, c, ctr.Id)
			close(done)
		}()
	}
	return explainLogError(crilog.Read(ctx, path, printer, opts), resp.Status)
}

func explainLogError(err error, status *runtimeapi.ContainerStatus) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return client.WithHint(err, "logs belong to root: run berth as root (sudo berth …)")
	case errors.Is(err, fs.ErrNotExist) && status.GetState() == runtimeapi.ContainerState_CONTAINER_CREATED:
		return client.WithHint(err, "the container has not been started yet; -f waits for it")
	case errors.Is(err, fs.ErrNotExist):
		return client.WithHint(err, "the file was removed; logs are read on the node that runs the container")
	}
	return err
}

// parseWhen reads a time or how long ago it was; "" is the zero time.
func parseWhen(flag, value string, now time.Time) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(value); err == nil {
		return now.Add(-ago), nil
	}
	when, err := time.Parse(time.RFC3339Nano, value)
	if err != nil {
		return time.Time{}, fmt.Errorf("--%s %q is neither a duration like 10m nor a time like 2026-01-02T15:04:05Z", flag, value)
	}
	return when, nil
}
