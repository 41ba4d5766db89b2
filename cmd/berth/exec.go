package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/streams"
)

type execFlags struct {
	interactive, tty, sync bool
	timeout                time.Duration
}

func (a *app) execCommand() *cobra.Command {
	var flags execFlags
	cmd := &cobra.Command{
		Use:   "exec [flags] CONTAINER COMMAND [ARG...]",
		Short: "Run a command in a running container",
		Long: `Run a command in a running container. berth ends with the exit code of the
command, with 126 or 127 when it cannot be run or is not there, and with 125 when
something else kept it from running.`,
		Example: `  berth exec -it web sh
  berth exec web cat /etc/hostname`,
		Args:              minArgs(2, "a container and a command"),
		ValidArgsFunction: a.completeContainers(1),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			ctr, err := c.Container(ctx, args[0])
			if err != nil {
				return &codeError{code: exitRunFailed, err: err}
			}
			if flags.sync {
				return a.execSync(ctx, c, ctr, args[1:], flags.timeout)
			}
			return a.execStream(ctx, c, ctr, args[1:], &flags)
		}),
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().BoolVarP(&flags.interactive, "interactive", "i", false, "pass standard input on")
	cmd.Flags().BoolVarP(&flags.tty, "tty", "t", false, "give the command a terminal")
	cmd.Flags().BoolVar(&flags.sync, "sync", false, "run the command as a probe is run (ExecSync), without streams")
	durationVarP(cmd.Flags(), &flags.timeout, "timeout", "", 0, "with --sync, how long the command may run; 0 is no limit")
	return cmd
}

func (a *app) execStream(ctx context.Context, c *client.Client, ctr *runtimeapi.Container, command []string, flags *execFlags) error {
	target := func(ctx context.Context) (string, error) {
		resp, err := c.Runtime.Exec(ctx, &runtimeapi.ExecRequest{
			ContainerId: ctr.Id, Cmd: command, Tty: flags.tty,
			Stdin: flags.interactive, Stdout: true, Stderr: !flags.tty,
		})
		return resp.GetUrl(), err
	}
	s := session{tty: flags.tty}
	if flags.interactive {
		s.stdin = a.stdin
	}
	err := a.stream(ctx, target, s)
	var exit *streams.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		return &codeError{code: exit.Code}
	}
	return &codeError{code: startFailureCode(err), err: fmt.Errorf("exec in %q: %w", ctr.GetMetadata().GetName(), err)}
}

func (a *app) execSync(ctx context.Context, c *client.Client, ctr *runtimeapi.Container, command []string, timeout time.Duration) error {
	seconds := int64((timeout + time.Second - 1) / time.Second)
	resp, err := c.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: ctr.Id, Cmd: command, Timeout: seconds})
	if err != nil {
		return &codeError{code: startFailureCode(err), err: fmt.Errorf("exec in %q: %w", ctr.GetMetadata().GetName(), err)}
	}
	if _, err := a.stdout.Write(resp.Stdout); err != nil {
		return err
	}
	if _, err := a.stderr.Write(resp.Stderr); err != nil {
		return err
	}
	if resp.ExitCode != 0 {
		return &codeError{code: int(resp.ExitCode)}
	}
	return nil
}

// startFailureCode tells, as shells do, a command that is not there from one
// that may not be run. CRI has no code for either, so the text has to do.
func startFailureCode(err error) int {
	if client.Code(err) == codes.Unavailable {
		return exitRunFailed
	}
	text := strings.ToLower(err.Error())
	for _, sign := range []string{"executable file not found", "no such file or directory"} {
		if strings.Contains(text, sign) {
			return exitNotFound
		}
	}
	for _, sign := range []string{"permission denied", "exec format error", "is a directory"} {
		if strings.Contains(text, sign) {
			return exitNotRunnable
		}
	}
	return exitRunFailed
}
