package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
)

// Making a pod is not cut short by Ctrl-C, only by this: what is half made has
// no ID yet that it could be removed by.
const setupTimeout = 4 * time.Minute

func (a *app) runCommand() *cobra.Command {
	var flags runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] IMAGE [COMMAND [ARG...]]",
		Short: "Run a container in a pod of its own",
		Long: `Run a container in a pod of its own, pulling the image if it is missing. berth
stays until the container has ended and ends with its exit code; with 126 or 127
when its program cannot be run or is not there, and with 125 when something else
kept it from running. Ctrl-C and SIGTERM ask the container to end, a second one
kills it. Where the container has a terminal, Ctrl-C is the terminal's.

A kubelet on the same socket removes pods it does not know, these too.`,
		Example: `  berth run -it --rm docker.io/library/busybox sh
  berth run -d --name web -p 8080:80 docker.io/library/nginx`,
		Args: minArgs(1, "an image"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return a.completeImages(1)(cmd, args, toComplete)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			err := a.run(cmd.Context(), &flags, args[0], args[1:])
			var coded *codeError
			if err != nil && !errors.As(err, &coded) {
				err = &codeError{code: exitRunFailed, err: err}
			}
			return err
		},
	}
	flags.add(cmd)
	return cmd
}

// runner is one `berth run`.
type runner struct {
	*app
	c     *client.Client
	flags *runFlags
	*runConfig

	podID, id string
	undo      undo
}

func (a *app) run(ctx context.Context, flags *runFlags, ref string, command []string) error {
	if err := flags.check(); err != nil {
		return err
	}
	config, err := newRunConfig(flags, ref, command)
	if err != nil {
		return err
	}
	c, err := a.connect()
	if err != nil {
		return err
	}
	signals, stopSignals := endSignals()
	defer stopSignals()
	r := &runner{app: a, c: c, flags: flags, runConfig: config}

	setup, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := onSignal(signals, func() { cancel(errInterrupted) })
	err = r.setup(setup, ref)
	stop()
	if err != nil {
		if undoErr := r.undo.run(ctx); undoErr != nil {
			return errors.Join(err, undoErr)
		}
		return err
	}
	return r.runForeground(ctx, signals)
}

// setup makes everything up to the created container. When it fails, undo
// holds what to take back.
func (r *runner) setup(ctx context.Context, ref string) error {
	if err := r.checkName(ctx); err != nil {
		return err
	}
	image, err := r.ensureImage(ctx, ref)
	if err != nil {
		return interruptedOr(ctx, err)
	}
	r.container.Image = &runtimeapi.ImageSpec{Image: image.Id, UserSpecifiedImage: ref}
	for _, step := range []func(context.Context) error{r.makeLogDirectory, r.makePod, r.makeContainer} {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), setupTimeout)
		err := step(bounded)
		cancel()
		if err = interruptedOr(ctx, err); err != nil {
			return err
		}
	}
	return nil
}

// interruptedOr is errInterrupted if a signal came, and err otherwise.
func interruptedOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errInterrupted) {
		return cause
	}
	return err
}

func (r *runner) checkName(ctx context.Context) error {
	list, err := r.c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{labelRun: "true"}},
	})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	for _, p := range list.Items {
		if p.GetMetadata().GetName() == r.pod.Metadata.Name {
			return client.WithHint(
				fmt.Errorf("name %q is taken by pod %s", r.pod.Metadata.Name, client.Short(p.Id)),
				fmt.Sprintf("choose another name, or remove it: berth rmp -f %s", client.Short(p.Id)))
		}
	}
	return nil
}

func (r *runner) ensureImage(ctx context.Context, ref string) (*runtimeapi.Image, error) {
	if r.flags.pull != pullAlways {
		image, err := r.c.Image(ctx, ref)
		var missing *client.NotFoundError
		if err == nil || !errors.As(err, &missing) || r.flags.pull == pullNever {
			return image, err
		}
	}
	auth, err := r.credentials(r.flags.creds)
	if err != nil {
		return nil, err
	}
	id, err := r.app.pull(ctx, r.c, ref, auth, false)
	if err != nil {
		return nil, err
	}
	return r.c.Image(ctx, id)
}

func (r *runner) makeLogDirectory(context.Context) error {
	dir := r.pod.LogDirectory
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the log folder: %w", err)
	}
	r.undo.add("remove the log folder", func(context.Context) error { return removeLogDirectory(dir) })
	return nil
}

func (r *runner) makePod(ctx context.Context) error {
	resp, err := r.c.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: r.pod, RuntimeHandler: r.flags.handler})
	if err != nil {
		return fmt.Errorf("start pod %q: %w", r.pod.Metadata.Name, err)
	}
	r.podID = resp.PodSandboxId
	r.undo.add("remove the pod", func(ctx context.Context) error { return removePod(ctx, r.c, r.podID) })
	return nil
}

func (r *runner) makeContainer(ctx context.Context) error {
	resp, err := r.c.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: r.podID, Config: r.container, SandboxConfig: r.pod,
	})
	if err != nil {
		return fmt.Errorf("create container %q: %w", r.container.Metadata.Name, err)
	}
	r.id = resp.ContainerId
	return nil
}

func (r *runner) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), setupTimeout)
	defer cancel()
	if _, err := r.c.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: r.id}); err != nil {
		return &codeError{code: startFailureCode(err), err: fmt.Errorf("start container %q: %w", r.container.Metadata.Name, err)}
	}
	return nil
}
