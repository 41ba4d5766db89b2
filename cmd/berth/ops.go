package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/output"
	"github.com/berth-cri/berth/cmd/berth/internal/streams"
	"github.com/berth-cri/berth/cri/berthapi"
)

// slowAfter is the age from which an operation is shown without --all.
const slowAfter = time.Second

// opsInterval is how often --watch looks.
const opsInterval = time.Second

type opsFlags struct {
	all, watch bool
	format     output.Format
}

func (a *app) opsCommand() *cobra.Command {
	var flags opsFlags
	cmd := &cobra.Command{
		Use:   "ops",
		Short: "Show what the runtime is doing and what it waits for",
		Long: `ops lists the calls, and the work in the background, that have run for more
than a second: of which pod they are, at which stage, and what they wait for.

A call whose caller has gone goes on, and is marked as such.`,
		Args:              noArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, c *client.Client, _ []string) error {
			if flags.watch {
				return a.watchOps(ctx, c, &flags)
			}
			return a.printOps(ctx, c, &flags, a.stdout)
		}),
	}
	cmd.Flags().BoolVarP(&flags.all, "all", "a", false, "show also what is younger than a second, and streams, which last as long as their client likes")
	cmd.Flags().BoolVarP(&flags.watch, "watch", "w", false, "show it again every second until interrupted")
	outputFlag(cmd, &flags.format, output.Table)
	return cmd
}

func (a *app) printOps(ctx context.Context, c *client.Client, flags *opsFlags, to io.Writer) error {
	req := berthapi.ListOperationsRequest{MinSeconds: slowAfter.Seconds(), All: flags.all}
	if flags.all {
		req.MinSeconds = 0
	}
	resp, err := c.Operations.ListOperations(ctx, req)
	if client.Code(err) == codes.Unimplemented {
		return client.WithHint(fmt.Errorf("the runtime does not tell what it is doing"), "is it an older Berth, or another runtime? Look at `berth version`")
	}
	if err != nil {
		return err
	}
	if flags.format != output.Table {
		return output.Data(to, flags.format, resp.Operations)
	}
	return writeOps(to, resp.Operations)
}

// watchOps redraws the screen of a terminal, and elsewhere prints list after list.
func (a *app) watchOps(ctx context.Context, c *client.Client, flags *opsFlags) error {
	const clearScreen = "\x1b[H\x1b[2J"
	tick := time.NewTicker(opsInterval)
	defer tick.Stop()
	for {
		var screen strings.Builder
		if streams.IsTerminal(a.stdout) && flags.format == output.Table {
			screen.WriteString(clearScreen)
		}
		if err := a.printOps(ctx, c, flags, &screen); err != nil {
			return err
		}
		if _, err := io.WriteString(a.stdout, screen.String()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// writeOps has a row for each thing that an operation does at a time.
func writeOps(w io.Writer, ops []berthapi.Operation) error {
	var rows [][]string
	for _, op := range ops {
		steps := op.Steps
		if len(steps) == 0 {
			steps = []berthapi.Step{{Seconds: op.Seconds}}
		}
		for i, step := range steps {
			row := []string{fmt.Sprint(op.ID), age(op.Seconds), opMethod(op), opPod(op), opContainer(op), step.Stage, age(step.Seconds), step.WaitsFor}
			if i > 0 {
				row[0], row[1], row[2], row[3], row[4] = "", "", "", "", ""
			}
			rows = append(rows, row)
		}
	}
	return output.Rows(w, []string{"ID", "AGE", "OPERATION", "POD", "CONTAINER", "STAGE", "SINCE", "WAITS FOR"}, rows)
}

func age(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	default:
		return d.Round(time.Second).String()
	}
}

func opMethod(op berthapi.Operation) string {
	if op.Answered {
		return op.Method + " (caller gone)"
	}
	return op.Method
}

func opPod(op berthapi.Operation) string {
	if op.Pod != "" {
		return op.Namespace + "/" + op.Pod
	}
	return client.Short(op.SandboxID)
}

// opContainer is the container or, of a call that is about none, the image.
func opContainer(op berthapi.Operation) string {
	switch {
	case op.Container != "":
		return op.Container
	case op.ContainerID != "":
		return client.Short(op.ContainerID)
	}
	return op.Image
}
