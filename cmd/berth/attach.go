package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/streams"
)

type attachFlags struct {
	interactive, tty bool
	detachKeys       string
}

func (a *app) attachCommand() *cobra.Command {
	var flags attachFlags
	cmd := &cobra.Command{
		Use:   "attach [flags] CONTAINER",
		Short: "Connect this terminal to a running container",
		Long: `Connect this terminal to the streams of a running container. A container made by
` + "`berth run -it`" + ` gets its input and terminal without being asked for.

The detach keys leave the container running; without a terminal Ctrl-C does. When
the container ends while attached, berth ends with its exit code.`,
		Args:              exactly(1, "a container"),
		ValidArgsFunction: a.completeContainers(1),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			ctr, err := c.Container(ctx, args[0])
			if err != nil {
				return err
			}
			flags.interactive = flags.interactive || ctr.Annotations[annotationStdin] != ""
			flags.tty = flags.tty || ctr.Annotations[annotationTTY] != ""
			return a.attach(ctx, c, ctr, &flags)
		}),
	}
	cmd.Flags().BoolVarP(&flags.interactive, "interactive", "i", false, "pass standard input on")
	cmd.Flags().BoolVarP(&flags.tty, "tty", "t", false, "the container has a terminal")
	addDetachKeys(cmd, &flags.detachKeys)
	return cmd
}

func addDetachKeys(cmd *cobra.Command, keys *string) {
	cmd.Flags().StringVar(keys, "detach-keys", streams.DefaultDetachKeys, "`keys` that detach from a terminal, leaving the container running")
}

func (a *app) attach(ctx context.Context, c *client.Client, ctr *runtimeapi.Container, flags *attachFlags) error {
	s := session{tty: flags.tty}
	if flags.interactive {
		s.stdin = a.stdin
	}
	if flags.tty {
		keys, err := streams.ParseDetachKeys(flags.detachKeys)
		if err != nil {
			return err
		}
		s.detachKeys = keys
	}
	err := a.stream(ctx, attachTarget(c, ctr.Id, flags.interactive, flags.tty), s)
	if errors.Is(err, streams.ErrDetached) {
		fmt.Fprintf(a.stderr, "\r\ndetached from %s, which runs on\n", ctr.GetMetadata().GetName())
		return nil
	}
	if err != nil {
		return fmt.Errorf("attach to %q: %w", ctr.GetMetadata().GetName(), err)
	}
	return exitAfterStream(ctx, c, ctr.Id)
}

// A container's streams end a moment before its exit is known, or long before,
// if it closes them itself.
const exitWait = 2 * time.Second

func exitAfterStream(ctx context.Context, c *client.Client, id string) error {
	bounded, cancel := context.WithTimeout(ctx, exitWait)
	defer cancel()
	status, err := waitExit(bounded, c, id)
	switch {
	case err == nil:
		return exitOf(status)
	case client.Code(err) == codes.NotFound || errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return nil
	}
	return fmt.Errorf("look up how container %s ended: %w", client.Short(id), err)
}

func attachTarget(c *client.Client, id string, stdin, tty bool) streams.Target {
	return func(ctx context.Context) (string, error) {
		resp, err := c.Runtime.Attach(ctx, &runtimeapi.AttachRequest{
			ContainerId: id, Stdin: stdin, Tty: tty, Stdout: true, Stderr: !tty,
		})
		return resp.GetUrl(), err
	}
}

// inputTarget attaches only the container's input.
func inputTarget(c *client.Client, id string) streams.Target {
	return func(ctx context.Context) (string, error) {
		resp, err := c.Runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Stdin: true})
		return resp.GetUrl(), err
	}
}
