package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc/codes"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/output"
	"github.com/berth-cri/berth/cmd/berth/internal/streams"
	"github.com/berth-cri/berth/cri/berthapi"
)

func (a *app) dfCommand() *cobra.Command {
	var all bool
	var format output.Format
	cmd := &cobra.Command{
		Use:   "df",
		Short: "Explain what takes how much room on the disk",
		Long: `df tells what the images, containers and records of the node take, with a picture
on a terminal. Sizes are what is allocated on the disk. Logs lie outside of the
runtime's directories and are not part of the total.

An orphan is what nothing knows: nobody would miss it.`,
		Args:              noArgs(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connected(func(ctx context.Context, c *client.Client, _ []string) error {
			usage, err := c.Storage.DiskUsage(ctx)
			if client.Code(err) == codes.Unimplemented {
				return client.WithHint(fmt.Errorf("the runtime does not tell what it keeps"), "is it an older Berth, or another runtime? Look at `berth version`")
			}
			if err != nil {
				return err
			}
			if format != output.Table {
				return output.Data(a.stdout, format, usage)
			}
			return a.printDiskUsage(usage, all)
		}),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "a line for each layer, container and file")
	outputFlag(cmd, &format, output.Table)
	return cmd
}

// diskGroups are what the summary tells apart, in its order.
var diskGroups = []struct {
	name string
	has  func(berthapi.DiskItem) bool
}{
	{"layers of one image", func(i berthapi.DiskItem) bool { return i.Kind == "layer" && len(i.Images) == 1 }},
	{"layers of several images", func(i berthapi.DiskItem) bool { return i.Kind == "layer" && i.Shared }},
	{"layers of removed images", func(i berthapi.DiskItem) bool { return i.Kind == "layer" && len(i.Images) == 0 }},
	{"original blobs", ofKind("blob")},
	{"containers", ofKind("container")},
	{"image volumes", ofKind("volume")},
	{"partial blobs", ofKind("partial")},
	{"in the making", ofKind("ingest")},
	{"damaged", ofKind("damaged")},
	{"image records", ofKind("image")},
	{"other records", ofKind("record")},
	{"orphans", ofKind("orphan")},
}

func ofKind(kind string) func(berthapi.DiskItem) bool {
	return func(i berthapi.DiskItem) bool { return i.Kind == kind && !i.Outside }
}

// diskShare is a line of the summary.
type diskShare struct {
	name          string
	count         int
	bytes, inodes uint64
}

// summarize adds the items up. The last group takes kinds that a newer runtime has.
func summarize(items []berthapi.DiskItem) (groups []diskShare, total, logs diskShare) {
	groups = make([]diskShare, len(diskGroups)+1)
	for i, g := range diskGroups {
		groups[i].name = g.name
	}
	groups[len(diskGroups)].name = "else"
	total.name, logs.name = "total", "logs (outside)"
	for _, item := range items {
		if item.Outside {
			logs.add(item)
			continue
		}
		total.add(item)
		n := len(diskGroups)
		for i, g := range diskGroups {
			if g.has(item) {
				n = i
				break
			}
		}
		groups[n].add(item)
	}
	groups = slices.DeleteFunc(groups, func(g diskShare) bool { return g.count == 0 })
	return groups, total, logs
}

func (s *diskShare) add(i berthapi.DiskItem) {
	s.count++
	s.bytes += i.Bytes
	s.inodes += i.Inodes
}

func (a *app) printDiskUsage(usage berthapi.DiskUsage, all bool) error {
	groups, total, logs := summarize(usage.Items)
	if width := terminalWidth(a.stdout); width > 0 && total.bytes > 0 {
		fmt.Fprintln(a.stdout, diskBar(groups, total.bytes, width))
	}
	var rows [][]string
	for i, g := range groups {
		mark := ""
		if terminalWidth(a.stdout) > 0 {
			mark = paint(i, "■") + " "
		}
		rows = append(rows, diskRow(mark, g, total.bytes))
	}
	rows = append(rows, diskRow("", total, total.bytes))
	if logs.count > 0 {
		rows = append(rows, diskRow("", logs, 0))
	}
	if err := output.Rows(a.stdout, []string{"SIZE", "SHARE", "COUNT", "INODES", "WHAT"}, rows); err != nil {
		return err
	}
	for _, fs := range usage.Filesystems {
		fmt.Fprintf(a.stdout, "%s: %s of %s free\n", strings.Join(fs.Directories, ", "), output.Size(fs.Available), output.Size(fs.Size))
	}
	if all {
		return a.printDiskItems(usage.Items)
	}
	return nil
}

func diskRow(mark string, g diskShare, total uint64) []string {
	share := "-"
	if total > 0 {
		share = fmt.Sprintf("%.1f%%", 100*float64(g.bytes)/float64(total))
	}
	return []string{output.Size(g.bytes), share, fmt.Sprint(g.count), fmt.Sprint(g.inodes), mark + g.name}
}

func (a *app) printDiskItems(items []berthapi.DiskItem) error {
	items = slices.Clone(items)
	slices.SortStableFunc(items, func(x, y berthapi.DiskItem) int {
		switch {
		case x.Bytes > y.Bytes:
			return -1
		case x.Bytes < y.Bytes:
			return 1
		}
		return 0
	})
	var rows [][]string
	for _, i := range items {
		shared := "-"
		if i.Kind == "layer" || i.Kind == "blob" {
			shared = map[bool]string{true: "yes", false: "no"}[i.Shared]
		}
		id := i.ID
		if !strings.HasPrefix(id, "/") {
			id = client.Short(id)
		}
		rows = append(rows, []string{i.Kind, id, output.Size(i.Bytes), fmt.Sprint(i.Inodes), shared, strings.Join(i.Images, ", ")})
	}
	fmt.Fprintln(a.stdout)
	return output.Rows(a.stdout, []string{"KIND", "ID", "SIZE", "INODES", "SHARED", "IMAGES"}, rows)
}

// terminalWidth is 0 for what is no terminal.
func terminalWidth(out any) int {
	f, ok := out.(*os.File)
	if !ok || !streams.IsTerminal(out) {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width < 1 {
		return 80
	}
	return width
}

// diskColors are of the 256 that terminals have; neighbours are easy to tell apart.
var diskColors = []int{33, 208, 40, 201, 220, 45, 196, 135, 118, 244, 179, 160, 250}

func paint(n int, text string) string {
	return fmt.Sprintf("\x1b[38;5;%dm%s\x1b[0m", diskColors[n%len(diskColors)], text)
}

// eighths are the blocks that fill a cell from the left.
var eighths = []rune(" ▏▎▍▌▋▊▉")

// diskBar draws the groups side by side, width cells together, to an eighth of a cell.
// Where one ends within a cell, the next one is the cell's background.
func diskBar(groups []diskShare, total uint64, width int) string {
	ends := make([]int, len(groups)) // in eighths
	var sum uint64
	for i, g := range groups {
		sum += g.bytes
		ends[i] = int(float64(sum) / float64(total) * float64(width*8))
	}
	var b strings.Builder
	g := 0
	for cell := range width {
		for g < len(groups)-1 && ends[g] <= cell*8 {
			g++
		}
		part := ends[g] - cell*8
		if part >= 8 || g == len(groups)-1 {
			b.WriteString(paint(g, "█"))
			continue
		}
		next := g + 1
		for next < len(groups)-1 && ends[next] <= ends[g] {
			next++
		}
		fmt.Fprintf(&b, "\x1b[38;5;%d;48;5;%dm%c\x1b[0m", diskColors[g%len(diskColors)], diskColors[next%len(diskColors)], eighths[part])
	}
	return b.String()
}
