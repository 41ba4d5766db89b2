package spec

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCommandLine(t *testing.T) {
	list := strings.Fields
	tests := []struct{ entrypoint, cmd, command, args, want string }{
		{"/ep e", "c1 c2", "", "", "/ep e c1 c2"},
		{"/ep", "c1", "", "a1 a2", "/ep a1 a2"},
		{"/ep", "c1", "/cmd x", "", "/cmd x"},
		{"/ep", "c1", "/cmd", "a1", "/cmd a1"},
		{"", "/c1 c2", "", "", "/c1 c2"},
		{"", "/c1", "", "/a1", "/a1"},
		{"/ep", "", "", "", "/ep"},
	}
	for _, tc := range tests {
		got, err := commandLine(&runtimeapi.ContainerConfig{Command: list(tc.command), Args: list(tc.args)},
			&ocispec.ImageConfig{Entrypoint: list(tc.entrypoint), Cmd: list(tc.cmd)})
		if err != nil {
			t.Error(err)
		}
		wantEqual(t, fmt.Sprintf("command line of %v", tc), strings.Join(got, " "), tc.want)
	}
	for _, c := range []*runtimeapi.ContainerConfig{
		{}, {Command: []string{""}}, {Command: []string{"", "x"}}, {Command: []string{"/bin/a\x00b"}}, {Command: []string{"/a"}, Args: []string{"\x00"}},
	} {
		_, err := commandLine(c, &ocispec.ImageConfig{})
		wantError(t, err, errdefs.ErrInvalidArgument, "config.command: ")
	}
}

func TestCommandLineKeepsTheImage(t *testing.T) {
	img := &ocispec.ImageConfig{Entrypoint: append(make([]string, 0, 8), "/ep"), Cmd: []string{"a"}}
	first, _ := commandLine(&runtimeapi.ContainerConfig{}, img)
	second, _ := commandLine(&runtimeapi.ContainerConfig{Args: []string{"b"}}, img)
	wantEqual(t, "first command line", first, []string{"/ep", "a"})
	wantEqual(t, "second command line", second, []string{"/ep", "b"})
}

func TestEnvironment(t *testing.T) {
	kv := func(k, v string) *runtimeapi.KeyValue { return &runtimeapi.KeyValue{Key: k, Value: []byte(v)} }
	tests := []struct {
		name   string
		change func(*Input)
		want   []string
	}{
		{"defaults", func(*Input) {}, []string{defaultPath, "HOSTNAME=web-0", "HOME=/root"}},
		{"terminal", func(in *Input) { in.Container.Tty = true }, []string{defaultPath, "HOSTNAME=web-0", "TERM=xterm", "HOME=/root"}},
		{"image over defaults", func(in *Input) {
			in.Container.Tty = true
			in.Image.Config.Env = []string{"PATH=/bin", "TERM=dumb", "HOME=/h", "A=1", "A=2", "NOVALUE"}
		}, []string{"PATH=/bin", "HOSTNAME=web-0", "TERM=dumb", "HOME=/h", "A=2"}},
		{"request over image over configuration", func(in *Input) {
			in.Defaults.Env = []string{"A=conf", "B=conf", "C=conf"}
			in.Image.Config.Env = []string{"A=image", "B=image"}
			in.Container.Envs = []*runtimeapi.KeyValue{kv("A", "request"), kv("D", "x=y"), kv("HOSTNAME", "mine")}
		}, []string{defaultPath, "HOSTNAME=mine", "A=request", "B=image", "C=conf", "D=x=y", "HOME=/root"}},
		{"any bytes", func(in *Input) { in.Container.Envs = []*runtimeapi.KeyValue{kv("A", "\xff\nline 2")} },
			[]string{defaultPath, "HOSTNAME=web-0", "A=\xff\nline 2", "HOME=/root"}},
		{"home of the user", func(in *Input) { in.Image.Config.User = "app" }, []string{defaultPath, "HOSTNAME=web-0", "HOME=/home/app"}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput(t)
			tc.change(&in)
			s, _ := mustBuild(t, in)
			wantEqual(t, "environment", s.Process.Env, tc.want)
		})
	}
}

func TestEnvironmentOfANodePod(t *testing.T) {
	in := testInput(t)
	in.Sandbox.Hostname = ""
	node, err := os.Hostname()
	must(t, err)
	s, _ := mustBuild(t, in)
	if !slices.Contains(s.Process.Env, "HOSTNAME="+node) {
		t.Errorf("environment is %v, want the node's name", s.Process.Env)
	}
}

func TestEnvironmentRefused(t *testing.T) {
	tests := []struct {
		field string
		envs  []*runtimeapi.KeyValue
		image []string
	}{
		{"config.envs[0].key", []*runtimeapi.KeyValue{{Key: ""}}, nil},
		{"config.envs[1].key", []*runtimeapi.KeyValue{{Key: "A"}, {Key: "B=C"}}, nil},
		{"config.envs[0].key", []*runtimeapi.KeyValue{{Key: "A\x00"}}, nil},
		{"config.envs[0].value", []*runtimeapi.KeyValue{{Key: "A", Value: []byte("a\x00b")}}, nil},
		{"image environment[0]", nil, []string{"=x"}},
		{"image environment[1]", nil, []string{"A=1", "B=\x00"}},
	}
	for _, tc := range tests {
		in := testInput(t)
		in.Container.Envs, in.Image.Config.Env = tc.envs, tc.image
		_, _, err := Build(t.Context(), in)
		wantError(t, err, errdefs.ErrInvalidArgument, tc.field+": ")
	}
}

func TestWorkingDir(t *testing.T) {
	good := []struct{ request, image, want string }{
		{"", "", "/"}, {"/app", "/img", "/app"}, {"", "/img", "/img"}, {"", "app", "/app"}, {"/a/../b/", "", "/b"},
		{"/proc", "", "/proc"}, {"/proc/sys", "", "/proc/sys"}, {"/../..", "", "/"}, {"/dev/fdx", "", "/dev/fdx"},
	}
	for _, tc := range good {
		got, err := workingDir(&runtimeapi.ContainerConfig{WorkingDir: tc.request}, &ocispec.ImageConfig{WorkingDir: tc.image})
		if err != nil || got != tc.want {
			t.Errorf("working directory %q of image %q is %q, %v, want %q", tc.request, tc.image, got, err, tc.want)
		}
	}
	bad := []string{"/proc/thread-self/cwd", "/proc/1/root", "/proc/./self/root", "//proc//self//fd/7", "/x/../proc/self/fd/3", "/dev/fd/5", "/a\x00b"}
	for n := 3; n <= 1024; n++ {
		bad = append(bad, fmt.Sprintf("/proc/self/fd/%d", n))
	}
	for _, dir := range bad {
		_, err := workingDir(&runtimeapi.ContainerConfig{WorkingDir: dir}, &ocispec.ImageConfig{})
		wantError(t, err, errdefs.ErrInvalidArgument, "config.working_dir: ")
		_, err = workingDir(&runtimeapi.ContainerConfig{}, &ocispec.ImageConfig{WorkingDir: dir})
		wantError(t, err, errdefs.ErrInvalidArgument, "image working directory: ")
	}
}

func TestStopSignal(t *testing.T) {
	tests := []struct {
		request runtimeapi.Signal
		image   string
		want    syscall.Signal
	}{
		{0, "", syscall.SIGTERM},
		{0, "SIGQUIT", syscall.SIGQUIT},
		{0, "quit", syscall.SIGQUIT},
		{0, "3", syscall.SIGQUIT},
		{0, "SIGRTMIN+3", 37},
		{0, "RTMAX-1", 63},
		{runtimeapi.Signal_SIGNAL_SIGUSR1, "SIGQUIT", syscall.SIGUSR1},
		{runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3, "", 37},
		{runtimeapi.Signal_SIGNAL_SIGRTMAX, "", 64},
	}
	for _, tc := range tests {
		got, err := stopSignal(&runtimeapi.ContainerConfig{StopSignal: tc.request}, tc.image)
		if err != nil || got != tc.want {
			t.Errorf("stop signal %v of image %q is %v, %v, want %v", tc.request, tc.image, got, err, tc.want)
		}
	}
	for _, s := range []string{"0", "65", "-9", "SIG", "SIGRTMIN+31", "SIGRTMIN+-1", "SIGRTMIN3", "TERM ", "KILLALL"} {
		if sig, ok := ParseSignal(s); ok {
			t.Errorf("%q is signal %d", s, sig)
		}
	}
}

// TestEverySignalOfCRI: each is a signal, and comes back as itself or as the one
// that it is another name for.
func TestEverySignalOfCRI(t *testing.T) {
	for n, name := range runtimeapi.Signal_name {
		if n == 0 {
			continue
		}
		sig, err := stopSignal(&runtimeapi.ContainerConfig{StopSignal: runtimeapi.Signal(n)}, "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		back, err := stopSignal(&runtimeapi.ContainerConfig{StopSignal: SignalEnum(sig)}, "")
		if err != nil || back != sig {
			t.Errorf("%s is signal %d, which is shown as %v", name, sig, SignalEnum(sig))
		}
	}
}

func TestExecProcess(t *testing.T) {
	in := testInput(t)
	in.Image.Config.User = "app"
	securityContext(&in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"NET_ADMIN"}}
	securityContext(&in).NoNewPrivs = true
	base, _ := mustBuild(t, in)
	base.Process.Capabilities.Inheritable = []string{"CAP_SYS_ADMIN"}
	env := slices.Clone(base.Process.Env)

	p, err := ExecProcess(base, []string{"id", "-G"}, true)
	must(t, err)
	wantEqual(t, "arguments", p.Args, []string{"id", "-G"})
	wantEqual(t, "user", p.User, base.Process.User)
	wantEqual(t, "bounding set", p.Capabilities.Bounding, base.Process.Capabilities.Bounding)
	if len(p.Capabilities.Inheritable) != 0 {
		t.Errorf("inheritable capabilities %v", p.Capabilities.Inheritable)
	}
	if !p.NoNewPrivileges || !p.Terminal || p.Cwd != "/" {
		t.Errorf("process is %+v", p)
	}
	wantEqual(t, "environment", p.Env, append(env, "TERM=xterm"))
	wantEqual(t, "the container's environment", base.Process.Env, env)
	wantEqual(t, "the container's arguments", base.Process.Args, []string{"/bin/true"})

	p, err = ExecProcess(base, []string{"id"}, false)
	must(t, err)
	wantEqual(t, "environment without a terminal", p.Env, env)

	for _, cmd := range [][]string{nil, {""}, {"a\x00"}, {"a", "\x00"}} {
		_, err := ExecProcess(base, cmd, false)
		wantError(t, err, errdefs.ErrInvalidArgument, "cmd: ")
	}
	_, err = ExecProcess(&specs.Spec{}, []string{"id"}, false)
	wantError(t, err, errdefs.ErrFailedPrecondition, "exec: ")
}
