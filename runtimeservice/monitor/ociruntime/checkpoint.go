package ociruntime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// The longest that checkpoint and restore may take where the caller gives no less.
const (
	checkpointTime = time.Hour
	restoreTime    = 10 * time.Minute
)

// CRIUOptions are for what CRIU cannot know whether it is wanted.
type CRIUOptions struct {
	TCPEstablished, FileLocks, ExternalUnix bool
	// ManageCgroups is what is done with cgroups.
	ManageCgroups string
	// LSMProfile and LSMMountContext are for Restore.
	LSMProfile, LSMMountContext string
}

func (o CRIUOptions) args() []string {
	args := []string{"--manage-cgroups-mode", o.ManageCgroups}
	for _, option := range []struct {
		set  bool
		args []string
	}{
		{o.TCPEstablished, []string{"--tcp-established"}},
		{o.FileLocks, []string{"--file-locks"}},
		{o.ExternalUnix, []string{"--ext-unix-sk"}},
		{o.LSMProfile != "", []string{"--lsm-profile", o.LSMProfile}},
		{o.LSMMountContext != "", []string{"--lsm-mount-context", o.LSMMountContext}},
	} {
		if option.set {
			args = append(args, option.args...)
		}
	}
	return args
}

// Checkpoint writes CRIU's images of a container, and its log, into an existing directory.
// The container goes on.
func (r *Runtime) Checkpoint(ctx context.Context, id, images string, o CRIUOptions) error {
	args := append([]string{"--leave-running", "--image-path", images, "--work-path", images}, o.args()...)
	return r.run(ctx, checkpointTime, id, "checkpoint", append(args, id)...)
}

// Restore makes the bundle of a container and the container, of CRIU's images. It returns
// its first process. What a failed one leaves goes with Delete.
func (r *Runtime) Restore(ctx context.Context, id string, spec *specs.Spec, images, work string, o CRIUOptions, streams Streams) (pid int, err error) {
	bundle := r.bundle(id)
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		return 0, fmt.Errorf("make bundle: %w", err)
	}
	if err := writeJSON(filepath.Join(bundle, "config.json"), spec); err != nil {
		return 0, fmt.Errorf("write specification: %w", err)
	}
	pidFile := filepath.Join(bundle, "pid")
	args := append([]string{"--bundle", bundle, "--pid-file", pidFile, "--detach", "--image-path", images, "--work-path", work}, o.args()...)
	if streams.Console != "" {
		args = append(args, "--console-socket", streams.Console)
	}
	if err := r.runProcess(ctx, restoreTime, id, "restore", spec.Process, streams, append(args, id)...); err != nil {
		return 0, err
	}
	return readPID(pidFile)
}
