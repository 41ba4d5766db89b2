package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/output"
	"github.com/berth-cri/berth/cmd/berth/internal/streams"
	"github.com/berth-cri/berth/cri/berthapi"
)

func (a *app) pullCommand() *cobra.Command {
	var quiet bool
	var creds string
	var format output.Format
	cmd := &cobra.Command{
		Use:               "pull IMAGE...",
		Short:             "Fetch images from a registry",
		Args:              minArgs(1, "images"),
		ValidArgsFunction: a.completeImages(0),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			auth, err := a.credentials(creds)
			if err != nil {
				return err
			}
			for _, ref := range args {
				id, err := a.pull(ctx, c, ref, auth, quiet)
				if err != nil {
					return err
				}
				if err := a.printPulled(ref, id, quiet, format); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress, print only the ID")
	addCredentials(cmd, &creds)
	outputFlag(cmd, &format, output.Table)
	return cmd
}

func addCredentials(cmd *cobra.Command, creds *string) {
	cmd.Flags().StringVar(creds, "creds", "", "`USER[:PASSWORD]` for the registry; the password is asked for if it is left out")
}

func (a *app) printPulled(ref, id string, quiet bool, format output.Format) error {
	if format != output.Table {
		return output.Data(a.stdout, format, map[string]string{"image": ref, "id": id})
	}
	if quiet {
		_, err := fmt.Fprintln(a.stdout, id)
		return err
	}
	_, err := fmt.Fprintf(a.stdout, "%s is image %s\n", ref, client.Short(id))
	return err
}

func (a *app) credentials(creds string) (*runtimeapi.AuthConfig, error) {
	if creds == "" {
		return nil, nil
	}
	user, password, ok := strings.Cut(creds, ":")
	if ok {
		return &runtimeapi.AuthConfig{Username: user, Password: password}, nil
	}
	if !streams.IsTerminal(a.stdin) {
		return nil, fmt.Errorf("--creds %q has no password, and there is no terminal to ask for it", creds)
	}
	fmt.Fprintf(a.stderr, "Password for %s: ", user)
	typed, err := term.ReadPassword(int(a.stdin.(*os.File).Fd()))
	fmt.Fprintln(a.stderr)
	if err != nil {
		return nil, fmt.Errorf("read password: %w", err)
	}
	return &runtimeapi.AuthConfig{Username: user, Password: string(typed)}, nil
}

// pull fetches an image, showing its progress on standard error, and returns
// the image's ID.
func (a *app) pull(ctx context.Context, c *client.Client, ref string, auth *runtimeapi.AuthConfig, quiet bool) (string, error) {
	watching, stop := context.WithCancel(ctx)
	shown := make(chan *berthapi.Snapshot, 1)
	view := a.newPullView(ref)
	go func() {
		var last *berthapi.Snapshot
		if !quiet {
			last = watchPull(watching, c, ref, view)
		}
		shown <- last
	}()
	resp, err := c.Images.PullImage(ctx, &runtimeapi.PullImageRequest{
		Image: &runtimeapi.ImageSpec{Image: ref, UserSpecifiedImage: ref}, Auth: auth,
	})
	stop()
	if last := <-shown; last != nil && err == nil {
		view.show(completed(*last)) // what the last snapshot was too early for
	}
	if err != nil {
		step := fmt.Sprintf("pull image %q: ", ref)
		if strings.Contains(err.Error(), step) {
			return "", err // berthd has said it
		}
		return "", fmt.Errorf("%s%w", step, err)
	}
	return resp.ImageRef, nil
}
