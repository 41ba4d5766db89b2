package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/fakecri"
)

// runArgs is `berth run` with logs in a folder of the test.
func runArgs(t *testing.T, args ...string) (logs string, full []string) {
	logs = t.TempDir()
	return logs, append([]string{"run", "--log-dir", logs}, args...)
}

// wantNothingLeft checks that a run left neither its pod nor its logs.
func wantNothingLeft(t *testing.T, s *fakecri.Server, logs string) {
	t.Helper()
	if n := s.Pods(); n != 1 {
		t.Errorf("%d pods, want only the one from before", n)
	}
	entries, err := os.ReadDir(logs)
	if err != nil || len(entries) != 0 {
		t.Errorf("log folders left: %v, %v", entries, err)
	}
}

func TestRunShowsOutputAndEndsWithTheCode(t *testing.T) {
	for _, test := range []struct {
		args     []string
		code     int
		out, err string
	}{
		{[]string{"--rm", "busybox:1", "both"}, 0, "to stdout\n", "to stderr\n"},
		{[]string{"--rm", "busybox:1", "exit", "9"}, 9, "", ""},
		{[]string{"--rm", "-t", "busybox:1", "both"}, 0, "to stdout\nto stderr\n", ""},
		{[]string{"--rm", "--entrypoint", "echo", "busybox:1", "-i", "x"}, 0, "-i x\n", ""},
	} {
		s := runtimeWith(t, fakecri.Options{AttachCreated: true})
		logs, args := runArgs(t, test.args...)
		code, out, errOut := berth(t, s, args...)
		if code != test.code || out != test.out || errOut != test.err {
			t.Errorf("%v: exit code %d, output %q, errors %q", test.args, code, out, errOut)
		}
		wantNothingLeft(t, s, logs)
	}
}

func TestRunPassesInputOn(t *testing.T) {
	for name, options := range map[string]fakecri.Options{
		"attached before the start": {AttachCreated: true},
		"attached after the start":  {},
	} {
		t.Run(name, func(t *testing.T) {
			s := runtimeWith(t, options)
			logs, args := runArgs(t, "-i", "--rm", "busybox:1", "cat")
			text := strings.Repeat("all work and no play\n", 5000)
			inv := begin(t, s, strings.NewReader(text), args...)
			if code := inv.wait(); code != 0 {
				t.Errorf("exit code %d, errors %q", code, inv.err.String())
			}
			if got := inv.out.String(); got != text {
				t.Errorf("%d bytes of %d came back", len(got), len(text))
			}
			wantNothingLeft(t, s, logs)
		})
	}
}

// A container that ends at once has been attached to in time, or its log is
// read: its output is there in both cases.
func TestRunLosesNoOutputOfAShortLife(t *testing.T) {
	for _, early := range []bool{true, false} {
		for _, flag := range []string{"-i", "-it"} {
			s := runtimeWith(t, fakecri.Options{AttachCreated: early})
			_, args := runArgs(t, flag, "--rm", "busybox:1", "echo", "first")
			code, out, errOut := berth(t, s, args...)
			if code != 0 || out != "first\n" {
				t.Errorf("early %t %s: exit code %d, output %q, errors %q", early, flag, code, out, errOut)
			}
		}
	}
}

func TestRunConversation(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{AttachCreated: true})
	logs, args := runArgs(t, "-it", "--rm", "busybox:1", "greet")
	in, typist := io.Pipe()
	inv := begin(t, s, in, args...)
	inv.waitFor("name? ")
	io.WriteString(typist, "Ada\n")
	if code := inv.wait(); code != 0 {
		t.Errorf("exit code %d, errors %q", code, inv.err.String())
	}
	want(t, "output", inv.out.String(), "name? hello Ada\n")
	wantNothingLeft(t, s, logs)
}

func TestRunDetachKeysLeaveItRunning(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{AttachCreated: true})
	_, args := runArgs(t, "-it", "--rm", "--name", "bg", "busybox:1", "greet")
	in, typist := io.Pipe()
	inv := begin(t, s, in, args...)
	inv.waitFor("name? ")
	typist.Write([]byte{16, 17})
	if code := inv.wait(); code != 0 {
		t.Fatalf("exit code %d, errors %q", code, inv.err.String())
	}
	if !strings.Contains(inv.err.String(), "detached from bg") || !strings.Contains(inv.err.String(), "berth rm -f bg") {
		t.Errorf("errors %q", inv.err.String())
	}
	if st := s.Container("bg"); st.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("state %s, want running", st.GetState())
	}
}

func TestRunDetached(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	logs, args := runArgs(t, "-d", "--name", "bg", "busybox:1", "loop")
	id := strings.TrimSpace(wantOK(t, s, args...))
	st := s.Container("bg")
	if st.GetId() != id || st.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Fatalf("printed %q, container %v", id, st)
	}
	_, again := runArgs(t, "-d", "--name", "bg", "busybox:1", "loop")
	wantFailure(t, s, exitRunFailed, []string{`name "bg" is taken by pod `, "hint: choose another name, or remove it: berth rmp -f "}, again...)
	want(t, "rm of a running one", wantOK(t, s, "rm", "-f", "bg"), "bg\n")
	wantNothingLeft(t, s, logs)
}

func TestRunKeepsTheContainerWithoutRm(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	logs, args := runArgs(t, "--name", "once", "busybox:1", "exit", "3")
	if code, _, errOut := berth(t, s, args...); code != 3 {
		t.Fatalf("exit code %d, errors %q", code, errOut)
	}
	if !strings.Contains(wantOK(t, s, "ps", "-a"), "once") || !strings.Contains(wantOK(t, s, "pods", "--state", "notready"), "once") {
		t.Error("the container is not listed, or its pod still ready")
	}
	want(t, "rm", wantOK(t, s, "rm", "once"), "once\n")
	wantNothingLeft(t, s, logs)
}

func TestRunForwardsSignals(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	logs, args := runArgs(t, "--rm", "--stop-timeout", "1h", "busybox:1", "loop")
	inv := begin(t, s, nil, args...)
	inv.waitFor("looping")
	syscall.Kill(os.Getpid(), syscall.SIGTERM)
	if code := inv.wait(); code != 7 {
		t.Errorf("exit code %d, errors %q", code, inv.err.String())
	}
	want(t, "output", inv.out.String(), "looping\nasked to end\n")
	wantNothingLeft(t, s, logs)
}

func TestRunSecondSignalKills(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	_, args := runArgs(t, "--rm", "--stop-timeout", "1h", "busybox:1", "stubborn")
	inv := begin(t, s, nil, args...)
	inv.waitFor("looping")
	syscall.Kill(os.Getpid(), syscall.SIGINT)
	inv.waitFor("no\n")
	syscall.Kill(os.Getpid(), syscall.SIGINT)
	if code := inv.wait(); code != 137 {
		t.Errorf("exit code %d, errors %q", code, inv.err.String())
	}
	timeouts := map[int64]bool{}
	for _, req := range s.Requests("StopContainer") {
		timeouts[req.(*runtimeapi.StopContainerRequest).Timeout] = true
	}
	if !timeouts[3600] || !timeouts[0] {
		t.Errorf("stop timeouts %v, want an hour, then none", timeouts)
	}
}

func TestRunTakesBackWhatItMade(t *testing.T) {
	for method, code := range map[string]int{
		"RunPodSandbox": exitRunFailed, "CreateContainer": exitRunFailed, "StartContainer": exitNotFound,
	} {
		for _, mode := range []string{"-d", "-i", "--rm"} {
			s := runtimeWith(t, fakecri.Options{AttachCreated: true})
			logs, args := runArgs(t, mode, "busybox:1", "loop")
			s.Fail(method, status.Error(codes.Unknown, `exec "loop": executable file not found in $PATH`))
			wantFailure(t, s, code, []string{"executable file not found"}, args...)
			wantNothingLeft(t, s, logs)
		}
	}
}

func TestRunPullsWhatIsMissing(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	s.AddRemoteImage("new:1", &runtimeapi.Image{Id: "sha256:" + strings.Repeat("7", 64), RepoTags: []string{"new:1"}})
	_, never := runArgs(t, "--rm", "--pull", "never", "new:1", "echo", "x")
	wantFailure(t, s, exitRunFailed, []string{`no image "new:1"`}, never...)
	_, missing := runArgs(t, "--rm", "new:1", "echo", "x")
	for range 2 {
		if out := wantOK(t, s, missing...); out != "x\n" {
			t.Errorf("output %q", out)
		}
	}
	if n := len(s.Requests("PullImage")); n != 1 {
		t.Errorf("%d pulls, want 1", n)
	}
	_, always := runArgs(t, "--rm", "--pull", "always", "--creds", "me:secret", "new:1", "echo", "x")
	wantOK(t, s, always...)
	pulls := s.Requests("PullImage")
	if auth := pulls[len(pulls)-1].(*runtimeapi.PullImageRequest).Auth; len(pulls) != 2 || auth.GetUsername() != "me" || auth.GetPassword() != "secret" {
		t.Errorf("%d pulls, the last with %v", len(pulls), auth)
	}
	_, unknown := runArgs(t, "nowhere:1")
	wantFailure(t, s, exitRunFailed, []string{`pull image "nowhere:1": manifest of nowhere:1 is unknown`}, unknown...)
	created := s.Requests("CreateContainer")[0].(*runtimeapi.CreateContainerRequest).Config.Image
	want(t, "image", created.Image+" "+created.UserSpecifiedImage, "sha256:"+strings.Repeat("7", 64)+" new:1")
}

func TestRunAsksForWhatTheFlagsSay(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	source := t.TempDir()
	envFile := filepath.Join(source, "env")
	if err := os.WriteFile(envFile, []byte("# comment\nFROM_FILE=1\n\nBOTH=file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("OWN_VALUE", "mine")
	_, args := runArgs(t, "-d", "--name", "full", "-p", "127.0.0.1:8080-8081:80-81/udp", "-p", "[::1]:443:443", "-v", source+":/data:ro,rslave",
		"--env-file", envFile, "-e", "BOTH=flag", "-e", "OWN_VALUE", "-e", "NOT_SET_ANYWHERE", "--cpus", "1.5", "--memory", "64m", "-u", "1000:50", "-w", "/tmp",
		"--read-only", "--no-new-privileges", "--cap-add", "NET_ADMIN", "--cap-drop", "ALL", "--label", "a=b", "--sysctl", "net.ipv4.ip_forward=1",
		"--dns", "10.0.0.1", "--dns-search", "x.test", "--stop-signal", "usr1", "--device", "/dev/null:/dev/n:r", "--group-add", "7", "--pid", "pod",
		"busybox:1", "loop")
	wantOK(t, s, args...)
	pod := s.Requests("RunPodSandbox")[0].(*runtimeapi.RunPodSandboxRequest).Config
	ctr := s.Requests("CreateContainer")[0].(*runtimeapi.CreateContainerRequest).Config
	sc := ctr.Linux.SecurityContext
	checks := map[string]bool{
		"ports": len(pod.PortMappings) == 3 && pod.PortMappings[1].HostPort == 8081 && pod.PortMappings[1].ContainerPort == 81 &&
			pod.PortMappings[1].Protocol == runtimeapi.Protocol_UDP && pod.PortMappings[0].HostIp == "127.0.0.1" && pod.PortMappings[2].HostIp == "::1",
		"mount":    len(ctr.Mounts) == 1 && ctr.Mounts[0].HostPath == source && ctr.Mounts[0].Readonly && ctr.Mounts[0].Propagation == runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER,
		"cpu":      ctr.Linux.Resources.CpuQuota == 150000 && ctr.Linux.Resources.CpuPeriod == 100000 && ctr.Linux.Resources.CpuShares == 1536,
		"memory":   ctr.Linux.Resources.MemoryLimitInBytes == 64<<20,
		"user":     sc.RunAsUser.GetValue() == 1000 && sc.RunAsGroup.GetValue() == 50 && sc.SupplementalGroups[0] == 7,
		"security": sc.ReadonlyRootfs && sc.NoNewPrivs && sc.Capabilities.AddCapabilities[0] == "NET_ADMIN" && sc.Capabilities.DropCapabilities[0] == "ALL" && len(sc.MaskedPaths) > 5 && sc.Seccomp.ProfileType == runtimeapi.SecurityProfile_RuntimeDefault,
		"pid":      sc.NamespaceOptions.Pid == runtimeapi.NamespaceMode_POD && pod.Linux.SecurityContext.NamespaceOptions.Pid == runtimeapi.NamespaceMode_POD,
		"workdir":  ctr.WorkingDir == "/tmp", "signal": ctr.StopSignal == runtimeapi.Signal_SIGNAL_SIGUSR1,
		"device": ctr.Devices[0].HostPath == "/dev/null" && ctr.Devices[0].ContainerPath == "/dev/n" && ctr.Devices[0].Permissions == "r",
		"labels": pod.Labels["a"] == "b" && pod.Labels[labelRun] == "true" && ctr.Labels["a"] == "b",
		"sysctl": pod.Linux.Sysctls["net.ipv4.ip_forward"] == "1",
		"dns":    pod.DnsConfig.Servers[0] == "10.0.0.1" && pod.DnsConfig.Searches[0] == "x.test",
		"names":  pod.Metadata.Name == "full" && pod.Hostname == "full" && pod.Metadata.Uid != "" && ctr.Metadata.Name == "full",
	}
	for what, ok := range checks {
		if !ok {
			t.Errorf("%s: pod %v\ncontainer %v", what, pod, ctr)
		}
	}
	var env []string
	for _, e := range ctr.Envs {
		env = append(env, e.Key+"="+string(e.Value))
	}
	want(t, "environment", strings.Join(env, " "), "FROM_FILE=1 BOTH=file BOTH=flag OWN_VALUE=mine")
}

func TestRunPrivilegedMasksNothing(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	_, args := runArgs(t, "-d", "--privileged", "--net", "host", "busybox:1", "loop")
	wantOK(t, s, args...)
	pod := s.Requests("RunPodSandbox")[0].(*runtimeapi.RunPodSandboxRequest).Config
	sc := s.Requests("CreateContainer")[0].(*runtimeapi.CreateContainerRequest).Config.Linux.SecurityContext
	if !sc.Privileged || !pod.Linux.SecurityContext.Privileged || len(sc.MaskedPaths) != 0 || sc.Seccomp.ProfileType != runtimeapi.SecurityProfile_Unconfined {
		t.Errorf("security context %v", sc)
	}
	if pod.Hostname != "" || sc.NamespaceOptions.Network != runtimeapi.NamespaceMode_NODE {
		t.Errorf("host network: host name %q, namespaces %v", pod.Hostname, sc.NamespaceOptions)
	}
}

func TestRunRefusesBadFlagsBeforeItMakesAnything(t *testing.T) {
	s := runtimeWith(t, fakecri.Options{})
	for text, flags := range map[string][]string{
		"--detach and --rm exclude each other":            {"-d", "--rm"},
		`"a" is not a port from 1 to 65535`:               {"-p", "a:b"},
		"is not [ADDRESS:]HOST:CONTAINER[/PROTOCOL]":      {"-p", "80"},
		"the two ranges differ in length":                 {"-p", "80-81:80"},
		`protocol "icmp" is none of`:                      {"-p", "80:80/icmp"},
		`"300.0.0.1" is not an IP address`:                {"-p", "300.0.0.1:80:80"},
		"exclude each other: the container's ports":       {"-p", "80:80", "--net", "host"},
		"no such file or directory":                       {"-v", "/does/not/exist:/x"},
		"is not an absolute path":                         {"-v", "/tmp:x"},
		`unknown option "rx"`:                             {"-v", "/tmp:/x:rx"},
		`--memory "lots" is not a size`:                   {"-m", "lots"},
		"--cpus -1 is not a number of CPUs":               {"--cpus", "-1"},
		"the group has to be a number":                    {"-u", "me:wheel"},
		`--net "bridge" is none of pod, host`:             {"--net", "bridge"},
		`--stop-signal "SIGNO" is not a signal`:           {"--stop-signal", "SIGNO"},
		`--pull "sometimes" is none of`:                   {"--pull", "sometimes"},
		`name "a b" is not of letters`:                    {"--name", "a b"},
		`permissions "x" are not of r, w and m`:           {"--device", "/dev/null:/dev/null:x"},
		`sysctl "a" is not KEY=VALUE`:                     {"--sysctl", "a"},
		`environment "=x" is not KEY=VALUE or KEY`:        {"-e", "=x"},
		"read environment: open /does/not/exist: no such": {"--env-file", "/does/not/exist"},
	} {
		_, args := runArgs(t, append(flags, "busybox:1", "loop")...)
		wantFailure(t, s, exitRunFailed, []string{text}, args...)
	}
	if n := len(s.Requests("RunPodSandbox")); n != 0 {
		t.Errorf("%d pods were made", n)
	}
}
