package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/output"
	"github.com/berth-cri/berth/cri/berthapi"
)

type fsckFlags struct {
	repair, quick, verbose bool
	format                 output.Format
}

func (a *app) fsckCommand() *cobra.Command {
	var flags fsckFlags
	cmd := &cobra.Command{
		Use:   "fsck [IMAGE...]",
		Short: "Verify images and layers on the disk, and repair them",
		Long: `fsck reads all that is kept of the images, or of those named, and compares it with
what was verified when they were pulled. Layers whose original blobs are kept are
unpacked from these once more, beside, and compared: that proves their DiffIDs, and
takes room for one layer. With --repair, what is damaged is fetched
again: from the kept blob, else from its registry with the node's own credentials.

Pods run on meanwhile. A container that uses a damaged layer keeps it until it is
removed; those that are made after the repair have the repaired one.

The exit code is 1 if something is damaged at the end.`,
		ValidArgsFunction: a.completeImages(0),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			return a.fsck(ctx, c, args, &flags)
		}),
	}
	cmd.Flags().BoolVar(&flags.repair, "repair", false, "fetch again what is damaged")
	cmd.Flags().BoolVar(&flags.quick, "quick", false, "do not unpack the kept blobs beside their layers to compare them")
	cmd.Flags().BoolVarP(&flags.verbose, "verbose", "v", false, "tell also of what is intact")
	outputFlag(cmd, &flags.format, output.Table)
	return cmd
}

// fsckCounts are the findings by their state.
type fsckCounts struct {
	states map[string]int
	bytes  uint64
}

func (a *app) fsck(ctx context.Context, c *client.Client, images []string, flags *fsckFlags) error {
	stream, err := c.Storage.Check(ctx, berthapi.CheckRequest{Images: images, Repair: flags.repair, Quick: flags.quick})
	if err != nil {
		return err
	}
	counts := fsckCounts{states: map[string]int{}}
	findings := []berthapi.Finding{}
	for {
		f, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if client.Code(err) == codes.Unimplemented {
			return client.WithHint(fmt.Errorf("the runtime cannot check what it keeps"), "is it an older Berth, or another runtime? Look at `berth version`")
		}
		if err != nil {
			return err
		}
		counts.states[f.State]++
		counts.bytes += f.Bytes
		if flags.format != output.Table {
			findings = append(findings, f)
		} else if flags.verbose || f.State != "intact" {
			writeFinding(a.stdout, f)
		}
	}
	if flags.format != output.Table {
		if err := output.Data(a.stdout, flags.format, findings); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(a.stdout, "%s read: %d intact, %d repaired, %d unverified, %d damaged\n", output.Size(counts.bytes),
			counts.states["intact"], counts.states["repaired"], counts.states["unverified"], counts.states["damaged"])
	}
	if n := counts.states["damaged"]; n > 0 {
		err := fmt.Errorf("%d images, layers or blobs are damaged", n)
		if !flags.repair {
			return client.WithHint(err, "`berth fsck --repair` fetches them again")
		}
		return err
	}
	return nil
}

func writeFinding(w io.Writer, f berthapi.Finding) {
	line := fmt.Sprintf("%s %s: %s", f.Kind, client.Short(f.ID), f.State)
	if f.Detail != "" {
		line += " (" + f.Detail + ")"
	}
	if len(f.Images) > 0 {
		line += ", of " + strings.Join(f.Images, ", ")
	}
	fmt.Fprintln(w, line)
	const most = 10
	for i, p := range f.Problems {
		if i == most {
			fmt.Fprintf(w, "    and %d more\n", len(f.Problems)-most)
			break
		}
		fmt.Fprintln(w, "    "+p)
	}
}
