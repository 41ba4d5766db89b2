package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/copies"
	"github.com/berth-cri/berth/cmd/berth/internal/output"
	"github.com/berth-cri/berth/cmd/berth/internal/streams"
	"github.com/berth-cri/berth/cri/berthapi"
)

func (a *app) cpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cp CONTAINER:PATH PATH|- | cp PATH|- CONTAINER:PATH",
		Short: "Copy files out of a container, or into it",
		Long: `cp copies a file or a directory with all in it, and keeps owner, mode and times; with -,
an archive (tar) on standard output or input, which has file capabilities and user.*
attributes too. Where a directory is at the destination,
the copy goes into it, else it gets that name. A source that ends with /. is what is in
the directory. The container may run or not, and needs no program for it.

Of a container that runs, its mounts are seen too, but nothing in /proc, /sys and the
like. Devices and pipes are left out, unless as entries of an archive; on this machine,
copies have no set-ID bits. A local path with a colon is written as ./a:b.`,
		Example: `  berth cp web/nginx:/etc/nginx ./nginx
  berth cp nginx.conf web/nginx:/etc/nginx/
  berth cp web/nginx:/var/log - | tar t`,
		Args: exactly(2, "a source and a destination, one of them CONTAINER:PATH"),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			from, out := inContainer(args[0])
			to, in := inContainer(args[1])
			if in == out {
				return client.WithHint(errors.New("one of the two has to be CONTAINER:PATH, and only one"), "a local path with a colon is written as ./a:b")
			}
			place := from
			if in {
				place = to
			}
			ctr, err := c.Container(ctx, place.container)
			if err != nil {
				return err
			}
			req := berthapi.CopyRequest{ContainerID: ctr.Id, Path: place.path}
			if in {
				err = a.copyIn(ctx, c, req, args[0])
			} else {
				err = a.copyOut(ctx, c, req, args[1])
			}
			return onlyBerth(err)
		}),
	}
}

// containerPath is what CONTAINER:PATH means.
type containerPath struct{ container, path string }

func inContainer(arg string) (containerPath, bool) {
	if strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, ".") {
		return containerPath{}, false
	}
	container, path, ok := strings.Cut(arg, ":")
	if path == "" {
		path = "/"
	}
	return containerPath{container, path}, ok
}

func (a *app) skipped(name string) {
	fmt.Fprintf(a.stderr, "left out, since it is neither file, directory nor link: %s\n", output.Name(name))
}

func (a *app) copyOut(ctx context.Context, c *client.Client, req berthapi.CopyRequest, to string) error {
	if to == "-" {
		if streams.IsTerminal(a.stdout) {
			return client.WithHint(errors.New("an archive is not for a terminal"), "name a file or directory, or use a pipe")
		}
		return c.Containers.CopyOut(ctx, req, a.stdout)
	}
	r, w := io.Pipe()
	copied := make(chan error, 1)
	go func() {
		err := c.Containers.CopyOut(ctx, req, w)
		w.CloseWithError(err)
		copied <- err
	}()
	err := copies.Unpack(r, to, copies.Name(req.Path), a.skipped)
	if err == nil {
		_, err = io.Copy(io.Discard, r) // what is behind the archive's end
	}
	r.CloseWithError(err)
	if sent := <-copied; sent != nil && err == nil || errors.Is(err, sent) {
		return sent
	}
	return err
}

func (a *app) copyIn(ctx context.Context, c *client.Client, req berthapi.CopyRequest, from string) error {
	if from == "-" {
		return c.Containers.CopyIn(ctx, req, a.stdin)
	}
	if _, err := os.Lstat(from); err != nil {
		return err
	}
	req.Top = copies.Name(from)
	r, w := io.Pipe()
	go func() { w.CloseWithError(copies.Pack(w, from, req.Top, a.skipped)) }()
	defer r.Close()
	return c.Containers.CopyIn(ctx, req, r)
}
