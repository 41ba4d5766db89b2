package handlers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"
)

const (
	// maxFeatures bounds what a program may write.
	maxFeatures = 1 << 20
	// oldVersion is what runtimes take that are older than the features command; crun 1.8
	// takes no 1.1.
	oldVersion = "1.0.2"
	// mappingCrun is the first crun that maps the IDs of mounts as the specification has it;
	// recursive read-only ones are older.
	mappingCrun = "1.8.1"
)

// readFeatures asks a program what it can do.
func readFeatures(ctx context.Context, path string, args []string) (Features, error) {
	var f Features
	version, err := output(ctx, path, args, "--version")
	if err != nil {
		return f, err
	}
	f.Version = firstLine(version)
	if f.OCIVersion, err = f.read(ctx, path, args); err != nil {
		return f, err
	}
	if help, err := output(ctx, path, args, "exec", "--help"); err == nil {
		f.ExecCgroup = bytes.Contains(help, []byte("--cgroup"))
	}
	return f, nil
}

// read runs the features command, and returns the version of the specification to write. A
// program that does not have it is no error.
func (f *Features) read(ctx context.Context, path string, args []string) (string, error) {
	text, err := output(ctx, path, args, "features")
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		f.assume()
		return oldVersion, nil
	}
	if err != nil {
		return "", err
	}
	var told features.Features
	if json.Unmarshal(text, &told) != nil || told.OCIVersionMax == "" {
		return oldVersion, nil
	}
	f.RecursiveReadOnlyMounts = slices.Contains(told.MountOptions, "rro")
	if l := told.Linux; l != nil && slices.Contains(l.Namespaces, string(specs.UserNamespace)) {
		extensions := l.MountExtensions
		f.UserNamespaces = extensions != nil && extensions.IDMap != nil && extensions.IDMap.Enabled != nil && *extensions.IDMap.Enabled
	}
	return versionWithin(specs.Version, told.OCIVersionMin, told.OCIVersionMax)
}

// assume says what a program can do that is older than its features command.
func (f *Features) assume() {
	version, ok := strings.CutPrefix(f.Version, "crun version ")
	if !ok {
		return
	}
	if cmp, err := compareVersions(version, mappingCrun); err == nil && cmp >= 0 {
		f.UserNamespaces, f.RecursiveReadOnlyMounts = true, true
	}
}

// versionWithin is ours, or the newest that the runtime takes.
func versionWithin(ours, least, most string) (string, error) {
	cmp, err := compareVersions(ours, most)
	if err != nil {
		return "", err
	}
	if cmp > 0 {
		return most, nil
	}
	if least == "" {
		return ours, nil
	}
	if cmp, err = compareVersions(ours, least); err != nil {
		return "", err
	}
	if cmp < 0 {
		return "", fmt.Errorf("it takes specifications from version %s on, and Berth writes %s", least, ours)
	}
	return ours, nil
}

// compareVersions compares major, minor and patch; what follows a hyphen or a plus is left out.
func compareVersions(a, b string) (int, error) {
	numbers := func(text string) ([]int, error) {
		base, _, _ := strings.Cut(strings.ReplaceAll(text, "+", "-"), "-")
		var all []int
		for part := range strings.SplitSeq(base, ".") {
			n, err := strconv.Atoi(part)
			if err != nil {
				return nil, fmt.Errorf("%q is not a version of the runtime specification", text)
			}
			all = append(all, n)
		}
		return all, nil
	}
	left, err := numbers(a)
	if err != nil {
		return 0, err
	}
	right, err := numbers(b)
	if err != nil {
		return 0, err
	}
	return slices.Compare(left, right), nil
}

// output runs a program and returns what it wrote.
func output(ctx context.Context, path string, args []string, command ...string) ([]byte, error) {
	// A file, so that a process that keeps its end open is not waited for.
	fd, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	out := os.NewFile(uintptr(fd), "output")
	defer out.Close()
	cmd := exec.CommandContext(ctx, path, append(slices.Clone(args), command...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Dir = "/"
	cmd.Stdout = out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	name := strings.Join(append([]string{path}, command...), " ")
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("run %s: no end within %s", name, lookTime)
		}
		return nil, fmt.Errorf("run %s: %w", name, err)
	}
	text, err := io.ReadAll(io.NewSectionReader(out, 0, maxFeatures+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFeatures {
		return nil, fmt.Errorf("run %s: it writes more than %d bytes", name, maxFeatures)
	}
	return text, nil
}

func firstLine(text []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	const most = 100
	if len(line) > most {
		line = line[:most]
	}
	return line
}
