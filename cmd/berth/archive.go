package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/streams"
	"github.com/berth-cri/berth/cri/berthapi"
)

func (a *app) saveCommand() *cobra.Command {
	var file string
	var docker, directory bool
	cmd := &cobra.Command{
		Use:   "save IMAGE...",
		Short: "Write images to an archive",
		Long: `Write images to an archive: an OCI layout as tar, in which all digests are those of
the registry that the images came from, or what docker load takes.`,
		Args:              minArgs(1, "images"),
		ValidArgsFunction: a.completeImages(0),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			req := berthapi.SaveRequest{Images: args, Docker: docker}
			if directory {
				return saveDirectory(ctx, c, file, req)
			}
			return a.save(ctx, c, file, req)
		}),
	}
	cmd.Flags().StringVarP(&file, "output", "o", "-", "`file` to write, - for standard output")
	cmd.Flags().BoolVar(&docker, "docker", false, "write a docker archive in place of an OCI layout")
	cmd.Flags().BoolVar(&directory, "dir", false, "write the OCI layout as a directory, which --output names")
	cmd.MarkFlagsMutuallyExclusive("docker", "dir")
	return cmd
}

func (a *app) save(ctx context.Context, c *client.Client, file string, req berthapi.SaveRequest) error {
	if file == "-" {
		if streams.IsTerminal(a.stdout) {
			return client.WithHint(errors.New("an archive is not for a terminal"), "name a file with --output, or use a pipe")
		}
		return c.Transfers.Save(ctx, req, a.stdout)
	}
	// A file that was there stays as it is unless the archive is whole.
	part := file + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	err = errors.Join(c.Transfers.Save(ctx, req, f), f.Close())
	if err == nil {
		err = os.Rename(part, file)
	}
	if err != nil {
		os.Remove(part)
	}
	return err
}

// saveDirectory writes images as an OCI layout at a path where nothing is.
func saveDirectory(ctx context.Context, c *client.Client, dir string, req berthapi.SaveRequest) error {
	if dir == "-" {
		return client.WithHint(errors.New("a directory needs a name"), "give it with --output")
	}
	if _, err := os.Lstat(dir); err == nil {
		return fmt.Errorf("write directory %s: %w", dir, os.ErrExist)
	}
	in, out := io.Pipe()
	go func() { out.CloseWithError(c.Transfers.Save(ctx, req, out)) }()
	part := filepath.Clean(dir) + ".part"
	err := unpackDirectory(in, part)
	in.CloseWithError(err)
	if errors.Is(err, os.ErrExist) {
		return err // another's
	}
	if err == nil {
		err = os.Rename(part, dir)
	}
	if err != nil {
		os.RemoveAll(part)
	}
	return err
}

func (a *app) loadCommand() *cobra.Command {
	var file string
	var req berthapi.LoadRequest
	cmd := &cobra.Command{
		Use:   "load [FILE]",
		Short: "Read images from an archive",
		Long: `Read images from an archive: an OCI layout or that of docker save, as tar, which may
be compressed with gzip or zstd. The layout may also be a directory. All blobs are
verified.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("input") {
				return exactly(0, "either a file or --input")(cmd, args)
			}
			return maxArgs(1, "one file at most")(cmd, args)
		},
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			if len(args) == 1 {
				file = args[0]
			}
			return a.load(ctx, c, file, req)
		}),
	}
	cmd.Flags().StringVarP(&file, "input", "i", "-", "`file` or directory to read, - for standard input")
	cmd.Flags().StringVar(&req.Repository, "name", "", "`repository` of images of which the archive has only the tag")
	cmd.Flags().StringVar(&req.Platform, "platform", "", "`platform` to choose in place of the node's, as in linux/arm64")
	return cmd
}

func (a *app) load(ctx context.Context, c *client.Client, file string, req berthapi.LoadRequest) error {
	var in io.Reader = a.stdin
	if file != "-" {
		f, err := openArchive(file)
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		defer f.Close()
		in = f
	}
	return c.Transfers.Load(ctx, req, in, func(e berthapi.LoadEvent) {
		if e.Unpacking != "" {
			fmt.Fprintf(a.stderr, "unpacking %s\n", e.Unpacking)
		}
		for _, i := range e.Loaded {
			fmt.Fprintf(a.stdout, "%s %s\n", client.Short(i.ID), strings.Join(i.Names, " "))
		}
	})
}

// openArchive opens a file, or makes an archive of a directory while that is read.
func openArchive(path string) (io.ReadCloser, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return os.Open(path)
	}
	in, out := io.Pipe()
	go func() { out.CloseWithError(packDirectory(path, out)) }()
	return in, nil
}
