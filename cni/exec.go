package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/berth-cri/berth/operation"
)

const (
	// maxPluginOutput bounds what is kept of a plugin's stdout, and of its stderr.
	maxPluginOutput = 1 << 20
	// killGrace is how long the output of a killed plugin is waited for; what still holds
	// its pipes then has left its process group.
	killGrace = time.Second
	// busyRetries and busyDelay wait for an installer that is writing the plugin.
	busyRetries = 25
	busyDelay   = 20 * time.Millisecond
	// defaultPath is where plugins find iptables and the like if the daemon has no PATH.
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// pluginExec runs plugins for libcni.
type pluginExec struct {
	version.PluginDecoder
}

var _ invoke.Exec = (*pluginExec)(nil)

// FindInPath implements invoke.Exec.
func (*pluginExec) FindInPath(plugin string, dirs []string) (string, error) {
	return findPlugin(plugin, dirs)
}

func findPlugin(plugin string, dirs []string) (string, error) {
	path, err := invoke.FindInPath(plugin, dirs)
	if err != nil {
		return "", missingPlugins([]string{plugin}, dirs)
	}
	return path, nil
}

func missingPlugins(plugins, dirs []string) error {
	quoted := make([]string, len(plugins))
	for i, plugin := range plugins {
		quoted[i] = fmt.Sprintf("%q", plugin)
	}
	noun := "plugin"
	if len(plugins) > 1 {
		noun = "plugins"
	}
	return fmt.Errorf("CNI %s %s missing in %s: %w", noun, strings.Join(quoted, ", "), strings.Join(dirs, ", "), errdefs.ErrUnavailable)
}

// ExecPlugin implements invoke.Exec. A plugin that outlives ctx is killed with the programs
// it started. The error is a *pluginError.
func (*pluginExec) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) (_ []byte, err error) {
	failure := &pluginError{plugin: filepath.Base(path), command: envValue(env, "CNI_COMMAND")}
	ctx, end := operation.Stage(ctx, fmt.Sprintf("network plugin %s %s", failure.plugin, failure.command))
	defer func() { end(err) }()
	began := time.Now()
	for try := 0; ; try++ {
		stdout, stderr, err := runPlugin(ctx, path, stdin, pluginEnv(env))
		if err == nil {
			return stdout, nil
		}
		if errors.Is(err, syscall.ETXTBSY) && try < busyRetries && ctx.Err() == nil {
			time.Sleep(busyDelay)
			continue
		}
		if ctx.Err() != nil {
			failure.reason = fmt.Sprintf("no answer within %s, killed", time.Since(began).Round(10*time.Millisecond))
			failure.cause = ctx.Err()
			return nil, failure
		}
		failure.explain(err, stdout, stderr)
		return nil, failure
	}
}

func runPlugin(ctx context.Context, path string, stdin []byte, env []string) (stdout, stderr []byte, err error) {
	var out, errOut limitedBuffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = env
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stdout = &out
	cmd.Stderr = &errOut
	// A group of its own, so that the iptables a hanging plugin waits for ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = killGrace
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		// The plugin itself is done; something it left behind has its stdout.
		err = nil
	}
	if out.full || errOut.full {
		err = errTooMuchOutput
	}
	return out.kept, errOut.kept, err
}

// limitedBuffer fails the write that would exceed maxPluginOutput, so that a plugin which
// writes without end dies of a broken pipe. It has no ReadFrom, which io.Copy would prefer.
type limitedBuffer struct {
	kept []byte
	full bool
}

var errTooMuchOutput = fmt.Errorf("it wrote more than %d bytes", maxPluginOutput)

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if len(b.kept)+len(p) > maxPluginOutput {
		b.full = true
		return 0, errTooMuchOutput
	}
	b.kept = append(b.kept, p...)
	return len(p), nil
}

// pluginEnv drops from the daemon's environment what speaks to systemd on its behalf.
func pluginEnv(env []string) []string {
	env = slices.DeleteFunc(env, func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		switch name {
		case "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES":
			return true
		}
		return false
	})
	if envValue(env, "PATH") == "" {
		env = append(env, "PATH="+defaultPath)
	}
	return env
}

func envValue(env []string, name string) string {
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}

// pluginError is a failed call of a plugin.
type pluginError struct {
	plugin, command string
	reason          string
	// code is the plugin's own, of the CNI specification or above 100; 0 is none.
	code  uint
	cause error
}

func (e *pluginError) Error() string {
	text := fmt.Sprintf("plugin %q, %s: %s", e.plugin, e.command, e.reason)
	if e.code != 0 {
		text += fmt.Sprintf(" (CNI error %d)", e.code)
	}
	return text
}

// Unwrap gives the kind of the error: the context's, or one of errdefs.
func (e *pluginError) Unwrap() error { return e.cause }

// explain takes the plugin's own words, or what is known without them.
func (e *pluginError) explain(err error, stdout, stderr []byte) {
	if errors.Is(err, errTooMuchOutput) {
		e.reason, e.cause = err.Error(), errdefs.ErrInternal
		return
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		e.reason, e.cause = "run: "+err.Error(), errdefs.ErrUnavailable
		return
	}
	var said types.Error
	if json.Unmarshal(stdout, &said) == nil && said.Msg != "" {
		e.reason, e.code = said.Msg, said.Code
		if said.Details != "" {
			e.reason += "; " + said.Details
		}
	} else {
		e.reason = exit.Error()
		if text := strings.TrimSpace(string(append(stderr, stdout...))); text != "" {
			e.reason += ": " + shorten(text)
		}
	}
	e.cause = kindOf(e.code)
}

// kindOf maps the codes of the CNI specification ("Error", well-known codes).
func kindOf(code uint) error {
	switch code {
	case types.ErrIncompatibleCNIVersion, types.ErrUnsupportedField, types.ErrInvalidEnvironmentVariables,
		types.ErrDecodingFailure, types.ErrInvalidNetworkConfig:
		return errdefs.ErrFailedPrecondition
	case types.ErrTryAgainLater, types.ErrPluginNotAvailable, types.ErrLimitedConnectivity:
		return errdefs.ErrUnavailable
	}
	return errdefs.ErrInternal
}

// shorten keeps the end of a plugin's output, where the reason is.
func shorten(text string) string {
	const most = 1024
	if len(text) > most {
		return "…" + text[len(text)-most:]
	}
	return text
}
