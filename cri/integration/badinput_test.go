package integration

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// containersOf are what a pod has, which after a refused request is nothing.
func (p *pod) containers() int {
	p.t.Helper()
	list, err := p.d.runtime.ListContainers(context.Background(), &runtimeapi.ContainerFilter{PodSandboxId: p.id})
	if err != nil {
		p.t.Fatal(err)
	}
	return len(list)
}

// What a container asks for and cannot have has a code and a text that names it,
// and no container is there afterwards.
func TestContainersThatCannotBeMade(t *testing.T) {
	p := runPod(t, hostNetwork)
	number := func(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }
	for name, c := range map[string]struct {
		option ctrOption
		codes  []codes.Code
		text   string
	}{
		"an image that is not there": {func(c *runtimeapi.ContainerConfig) { c.Image.Image = "sha256:" + strings.Repeat("0", 64) },
			[]codes.Code{codes.NotFound}, "0000"},
		"a user the image does not know": {security(func(s securityContext) { s.RunAsUsername = "nosuchuser" }),
			[]codes.Code{codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition}, "nosuchuser"},
		"a group without a user": {security(func(s securityContext) { s.RunAsGroup = number(5) }),
			[]codes.Code{codes.InvalidArgument}, "run_as_group"},
		"a user beyond all": {security(func(s securityContext) { s.RunAsUser = number(1 << 32) }),
			[]codes.Code{codes.InvalidArgument}, "run_as_user"},
		"a mount source that is missing": {mount("/nonexistent/source", "/x"),
			[]codes.Code{codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition}, "/nonexistent/source"},
		"a mount over the root": {mount("/tmp", "/"), []codes.Code{codes.InvalidArgument}, "container_path"},
		"a log outside its directory": {func(c *runtimeapi.ContainerConfig) { c.LogPath = "../../escape.log" },
			[]codes.Code{codes.InvalidArgument}, "log_path"},
		"a working directory in /proc": {func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "/proc/self/fd/7" },
			[]codes.Code{codes.InvalidArgument}, "working_dir"},
		"a capability that does not exist": {security(func(s securityContext) { s.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"FLY"}} }),
			[]codes.Code{codes.InvalidArgument}, "FLY"},
		"a device that is missing": {func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/nonexistent", ContainerPath: "/dev/x", Permissions: "r"}}
		}, []codes.Code{codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition}, "/dev/nonexistent"},
		"a seccomp profile that is missing": {security(func(s securityContext) {
			s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/nonexistent.json"}
		}), []codes.Code{codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition}, "/nonexistent.json"},
		"a target that does not exist": {security(func(s securityContext) {
			s.NamespaceOptions.Pid, s.NamespaceOptions.TargetId = runtimeapi.NamespaceMode_TARGET, strings.Repeat("9", 64)
		}), []codes.Code{codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition}, "9999"},
	} {
		_, err := shared.runtime.CreateContainer(t.Context(), p.id, p.containerConfig(c.option), p.config)
		if err == nil {
			t.Errorf("%s: was created", name)
			continue
		}
		code, known := statusCode(err), false
		for _, want := range c.codes {
			known = known || code == want
		}
		if !known || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: code %v, want %v with %q: %v", name, code, c.codes, c.text, err)
		}
	}
	same(t, "containers", p.containers(), 0)
	_, err := shared.runtime.CreateContainer(t.Context(), strings.Repeat("0", 64), p.containerConfig(), p.config)
	wantCode(t, "a pod that does not exist", err, notFound)
}

// A command that cannot be run is an error of StartContainer; the container is
// there and says why.
func TestCommandsThatCannotBeRun(t *testing.T) {
	p := runPod(t, hostNetwork)
	for name, c := range map[string]struct{ command, text string }{
		"not there":      {"no-such-command", "no-such-command"},
		"not executable": {"/etc/passwd", "/etc/passwd"},
		"a directory":    {"/etc", "/etc"},
	} {
		ctr := p.create(command(c.command))
		err := shared.runtime.StartContainer(t.Context(), ctr.id)
		if err == nil || statusCode(err) == codes.Unknown || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
		s := ctr.status()
		same(t, name+": state", s.State, runtimeapi.ContainerState_CONTAINER_EXITED)
		same(t, name+": reason", s.Reason, "ContainerCannotRun")
		if s.ExitCode != 127 && s.ExitCode != 126 && s.ExitCode != 128 {
			t.Errorf("%s: exit code %d", name, s.ExitCode)
		}
		if !strings.Contains(s.Message, c.text) || s.FinishedAt < s.CreatedAt {
			t.Errorf("%s: %v", name, s)
		}
		if err := shared.runtime.RemoveContainer(t.Context(), ctr.id); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPodsThatCannotBeMade(t *testing.T) {
	checkLeaks(t, shared)
	for name, c := range map[string]struct {
		option  podOption
		handler string
		text    string
	}{
		"a sysctl of the node": {func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"kernel.panic": "1"} }, "", "kernel.panic"},
		"a sysctl without namespaces": {func(c *runtimeapi.PodSandboxConfig) {
			hostNetwork(c)
			c.Linux.Sysctls = map[string]string{"net.ipv4.ip_forward": "1"}
		}, "", "net.ipv4.ip_forward"},
		"two sysctls in one": {func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1+kernel.core_pattern=x"}
		}, "", "kernel.shm_rmid_forced"},
		"a sysctl that is not there": {func(c *runtimeapi.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"net.ipv4.nonexistent": "1"} }, "", "net.ipv4.nonexistent"},
		"a log directory with ..":    {func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = "/tmp/../etc" }, "", "log_directory"},
		"no metadata":                {func(c *runtimeapi.PodSandboxConfig) { c.Metadata = nil }, "", "config.metadata"},
		"an unknown handler":         {func(*runtimeapi.PodSandboxConfig) {}, "kata", "kata"},
		"a host name in two lines":   {func(c *runtimeapi.PodSandboxConfig) { c.Hostname = "a\nb" }, "", "hostname"},
		"a name server that is none": {func(c *runtimeapi.PodSandboxConfig) { c.DnsConfig = &runtimeapi.DNSConfig{Servers: []string{"x y"}} }, "", "dns_config.servers[0]"},
	} {
		_, err := shared.runtime.RunPodSandbox(t.Context(), podConfig(t, c.option), c.handler)
		if statusCode(err) != codes.InvalidArgument || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Containers that are made at the same time from one image do not see each
// other's environment (CVE-2021-21334).
func TestParallelCreation(t *testing.T) {
	p := runPod(t, hostNetwork)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			name := fmt.Sprintf("V%d", i)
			config := p.containerConfig(env(name, name), shell("env | grep ^V"))
			id, err := shared.runtime.CreateContainer(t.Context(), p.id, config, p.config)
			if err == nil {
				err = shared.runtime.StartContainer(t.Context(), id)
			}
			if err != nil {
				t.Errorf("container %d: %v", i, err)
				return
			}
			c := &ctr{t, p, id, config}
			for end := time.Now().Add(patience); c.status().State != runtimeapi.ContainerState_CONTAINER_EXITED; {
				if time.Now().After(end) {
					t.Errorf("container %d does not end", i)
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			same(t, "environment", c.stdout(), name+"="+name)
		})
	}
	all.Wait()
}

// berthd runs berthd to its end, which has to come by itself.
func berthd(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "berthd"), args...).CombinedOutput()
	if ctx.Err() != nil {
		t.Errorf("berthd %v does not end", args)
	}
	return string(out), err
}

func TestDaemonsThatCannotStart(t *testing.T) {
	dir := shortDir(t)
	header := "apiVersion: berth.dev/v1alpha1\nkind: BerthConfiguration\n"
	unknown := write(t, dir+"/unknown.yaml", header+"\n\nnetwrok: {}\n")
	wrong := write(t, dir+"/wrong.yaml", header+"streaming:\n  address: 0.0.0.0\n")
	file := write(t, dir+"/file", "not a directory")
	l, err := net.Listen("unix", dir+"/used.sock")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Mkdir(dir+"/open", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir+"/open", 0o777); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"an unknown key":           {[]string{"--config", unknown}, []string{"netwrok", "5"}},
		"a wrong value":            {[]string{"--config", wrong}, []string{"streaming.address", "0.0.0.0"}},
		"no such file":             {[]string{"--config", dir + "/absent.yaml"}, []string{"absent.yaml"}},
		"a root that is a file":    {[]string{"--root", file, "--state", dir + "/s1"}, []string{file}},
		"a root for all":           {[]string{"--root", dir + "/open", "--state", dir + "/s2"}, []string{dir + "/open"}},
		"a socket in use":          {[]string{"--root", dir + "/r3", "--state", dir + "/s3", "--address", dir + "/used.sock"}, []string{"used.sock", "in use"}},
		"a socket that is a file":  {[]string{"--root", dir + "/r4", "--state", dir + "/s4", "--address", file}, []string{file}},
		"an unknown log level":     {[]string{"--log-level", "loud"}, []string{"loud"}},
		"a metrics address in use": {[]string{"--root", dir + "/r5", "--state", dir + "/s5", "--metrics-address", registry.Host}, []string{registry.Host}},
	} {
		out, err := berthd(t, c.args...)
		if err == nil {
			t.Errorf("%s: berthd ended well: %s", name, out)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: the error does not have %q: %s", name, want, out)
			}
		}
	}
}
