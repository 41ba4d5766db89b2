package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/output"
)

type imagesFlags struct {
	quiet, noTrunc, digests bool
}

func (a *app) imagesCommand() *cobra.Command {
	var flags imagesFlags
	var format output.Format
	cmd := &cobra.Command{
		Use:               "images [NAME]",
		Aliases:           []string{"image"},
		Short:             "List images",
		Args:              maxArgs(1, "one name at most"),
		ValidArgsFunction: a.completeImages(1),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			req := &runtimeapi.ListImagesRequest{}
			if len(args) == 1 {
				req.Filter = &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: args[0]}}
			}
			list, err := c.Images.ListImages(ctx, req)
			if err != nil {
				return fmt.Errorf("list images: %w", err)
			}
			return a.printImages(list.Images, &flags, format)
		}),
	}
	cmd.Flags().BoolVarP(&flags.quiet, "quiet", "q", false, "print only IDs")
	cmd.Flags().BoolVar(&flags.noTrunc, "no-trunc", false, "do not shorten IDs")
	cmd.Flags().BoolVar(&flags.digests, "digests", false, "show the digests of the manifests")
	outputFlag(cmd, &format, output.Table)
	return cmd
}

func (a *app) printImages(images []*runtimeapi.Image, flags *imagesFlags, format output.Format) error {
	if flags.quiet {
		for _, image := range images {
			fmt.Fprintln(a.stdout, image.Id)
		}
		return nil
	}
	if format != output.Table {
		return output.Data(a.stdout, format, &runtimeapi.ListImagesResponse{Images: images})
	}
	header := []string{"IMAGE", "TAG", "IMAGE ID", "SIZE"}
	if flags.digests {
		header = slices.Insert(header, 2, "DIGEST")
	}
	var rows [][]string
	for _, image := range images {
		rows = append(rows, imageRows(image, flags)...)
	}
	slices.SortFunc(rows, slices.Compare)
	return output.Rows(a.stdout, header, rows)
}

// imageRows is one row for each name of the image.
func imageRows(image *runtimeapi.Image, flags *imagesFlags) [][]string {
	type name struct{ repo, tag string }
	var names []name
	for _, tagged := range image.RepoTags {
		repo, tag := splitTag(tagged)
		names = append(names, name{repo, tag})
	}
	if len(names) == 0 {
		repo := "<none>"
		if len(image.RepoDigests) > 0 {
			repo, _, _ = strings.Cut(image.RepoDigests[0], "@")
		}
		names = append(names, name{repo, "<none>"})
	}
	rows := make([][]string, 0, len(names))
	for _, n := range names {
		row := []string{n.repo, n.tag, shortID(image.Id, flags.noTrunc), output.Size(image.Size)}
		if flags.digests {
			row = slices.Insert(row, 2, digestOf(image, n.repo, flags.noTrunc))
		}
		rows = append(rows, row)
	}
	return rows
}

func splitTag(ref string) (repo, tag string) {
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		return ref[:i], ref[i+1:]
	}
	return ref, "<none>"
}

func digestOf(image *runtimeapi.Image, repo string, whole bool) string {
	for _, d := range image.RepoDigests {
		if name, digest, ok := strings.Cut(d, "@"); ok && name == repo {
			return shortID(digest, whole)
		}
	}
	return "<none>"
}
