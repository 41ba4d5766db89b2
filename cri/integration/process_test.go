package integration

import (
	"strconv"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCommandAndArgumentsAgainstTheImages(t *testing.T) {
	p := runPod(t, hostNetwork)
	for name, c := range map[string]struct {
		command, args []string
		want          string
	}{
		"the image's both":       {nil, nil, "entrypoint image command"},
		"arguments":              {nil, []string{"my", "arguments"}, "entrypoint my arguments"},
		"a command":              {[]string{"echo", "mine"}, nil, "mine"},
		"a command and argument": {[]string{"echo", "mine"}, []string{"and these"}, "mine and these"},
	} {
		got := p.output(func(config *runtimeapi.ContainerConfig) {
			config.Image.Image = entrypointImage
			config.Command, config.Args = c.command, c.args
		})
		same(t, name, got, c.want)
	}
}

func TestEnvironment(t *testing.T) {
	p := runPod(t, hostNetwork)
	out := p.output(command("env"), env("BOTH", "request"), env("LINES", "a\nb"), env("EMPTY", ""), func(c *runtimeapi.ContainerConfig) {
		c.Image.Image = entrypointImage
	})
	for _, want := range []string{"FROM_IMAGE=yes\n", "BOTH=request\n", "LINES=a\nb\n", "EMPTY=\n", "PATH=/bin:/usr/bin\n", "HOSTNAME="} {
		if !strings.Contains(out+"\n", want) {
			t.Errorf("the environment has no %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "BOTH=image") {
		t.Errorf("the image's value is there too:\n%s", out)
	}
}

func TestWorkingDirectory(t *testing.T) {
	p := runPod(t, hostNetwork)
	image := func(c *runtimeapi.ContainerConfig) { c.Image.Image = entrypointImage }
	same(t, "the image's", p.output(command("pwd"), image), "/home/app")
	same(t, "the request's", p.output(command("pwd"), image, func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "/tmp" }), "/tmp")
	same(t, "the root's", p.output(command("pwd")), "/")
	same(t, "one to be made", p.output(command("pwd"), func(c *runtimeapi.ContainerConfig) { c.WorkingDir = "/made/here" }), "/made/here")
}

func TestUsersAndGroups(t *testing.T) {
	p := runPod(t, hostNetwork)
	image := func(c *runtimeapi.ContainerConfig) { c.Image.Image = entrypointImage }
	ids := shell("echo $(id -u) $(id -g) $(id -G)")
	number := func(n int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: n} }
	type context = *runtimeapi.LinuxContainerSecurityContext
	for name, c := range map[string]struct {
		options []ctrOption
		want    string
	}{
		"root":                    {nil, "0 0 0"},
		"the image's":             {[]ctrOption{image}, "1000 1000 1000 2000"},
		"by number":               {[]ctrOption{security(func(s context) { s.RunAsUser = number(65534) })}, "65534 65534 65534"},
		"by number, unknown":      {[]ctrOption{security(func(s context) { s.RunAsUser = number(4242) })}, "4242 0 0"},
		"by name":                 {[]ctrOption{security(func(s context) { s.RunAsUsername = "app" })}, "1000 1000 1000 2000"},
		"with a group":            {[]ctrOption{security(func(s context) { s.RunAsUser, s.RunAsGroup = number(1000), number(3000) })}, "1000 3000 3000 2000"},
		"merged groups":           {[]ctrOption{security(func(s context) { s.RunAsUsername, s.SupplementalGroups = "app", []int64{5000} })}, "1000 1000 1000 2000 5000"},
		"root instead of image's": {[]ctrOption{image, security(func(s context) { s.RunAsUser = number(0) })}, "0 0 0"},
		"strict groups": {[]ctrOption{security(func(s context) {
			s.RunAsUsername, s.SupplementalGroups = "app", []int64{5000}
			s.SupplementalGroupsPolicy = runtimeapi.SupplementalGroupsPolicy_Strict
		})}, "1000 1000 1000 5000"},
	} {
		ctr := p.run(append(c.options, ids)...)
		ctr.wait()
		got := strings.Fields(ctr.stdout())
		want := strings.Fields(c.want)
		sortTail(got)
		sortTail(want)
		same(t, name, strings.Join(got, " "), strings.Join(want, " "))
		user := ctr.status().User.GetLinux()
		if user == nil {
			t.Errorf("%s: the status has no user", name)
			continue
		}
		same(t, name+": uid in the status", user.Uid, atoi(t, got[0]))
		same(t, name+": gid in the status", user.Gid, atoi(t, got[1]))
		var groups []string
		for _, g := range user.SupplementalGroups {
			groups = append(groups, strconv.FormatInt(g, 10))
		}
		all := append([]string{got[0], got[1]}, groups...)
		sortTail(all)
		same(t, name+": groups in the status", strings.Join(all, " "), strings.Join(want, " "))
	}
	// What exec runs has the same identity.
	c := p.run(security(func(s context) { s.RunAsUsername, s.SupplementalGroups = "app", []int64{5000} }))
	same(t, "exec", c.sh("echo $(id -u) $(id -g) $(id -G | tr ' ' '\\n' | sort -n)"), "1000 1000 1000 2000 5000")
}

func TestStopSignals(t *testing.T) {
	p := runPod(t, hostNetwork)
	trap := func(signal string) ctrOption {
		return shell("trap 'echo got " + signal + "; exit 7' " + signal + "; echo ready; while true; do sleep 0.05; done")
	}
	for name, c := range map[string]struct {
		options []ctrOption
		signal  runtimeapi.Signal
	}{
		"default":       {[]ctrOption{trap("TERM")}, runtimeapi.Signal_SIGNAL_SIGTERM},
		"the image's":   {[]ctrOption{trap("USR1"), func(c *runtimeapi.ContainerConfig) { c.Image.Image = entrypointImage }}, runtimeapi.Signal_SIGNAL_SIGUSR1},
		"the request's": {[]ctrOption{trap("INT"), func(c *runtimeapi.ContainerConfig) { c.StopSignal = runtimeapi.Signal_SIGNAL_SIGINT }}, runtimeapi.Signal_SIGNAL_SIGINT},
	} {
		ctr := p.run(c.options...)
		eventually(t, name+": the container is ready", func() bool { return strings.Contains(ctr.stdout(), "ready") })
		ctr.stop(20)
		s := ctr.status()
		same(t, name+": exit code", s.ExitCode, 7)
		same(t, name+": signal in the status", s.StopSignal, c.signal)
		if !strings.Contains(ctr.stdout(), "got ") {
			t.Errorf("%s: the container wrote %q", name, ctr.stdout())
		}
	}
}

// A container that does not heed its signal is killed after the timeout; with a
// timeout of 0 at once.
func TestStopTimeouts(t *testing.T) {
	p := runPod(t, hostNetwork)
	deaf := shell("trap '' TERM; echo ready; while true; do sleep 0.05; done")
	for _, timeout := range []int64{0, 1} {
		c := p.run(deaf)
		eventually(t, "the container is ready", func() bool { return strings.Contains(c.stdout(), "ready") })
		c.stop(timeout)
		s := c.status()
		same(t, "exit code", s.ExitCode, 128+9)
		same(t, "state", s.State, runtimeapi.ContainerState_CONTAINER_EXITED)
		c.stop(timeout) // once more is no error
	}
	// A second stop with a shorter timeout shortens the first.
	c := p.run(deaf)
	eventually(t, "the container is ready", func() bool { return strings.Contains(c.stdout(), "ready") })
	first := make(chan error, 1)
	go func() { first <- shared.runtime.StopContainer(t.Context(), c.id, 600) }()
	c.stop(0)
	if err := <-first; err != nil {
		t.Errorf("the first stop: %v", err)
	}
}

func TestExitCodesAndReasons(t *testing.T) {
	// With the node's PIDs a shell is no init, which the kernel spares signals.
	p := runPod(t, hostNetwork, pids(runtimeapi.NamespaceMode_NODE))
	for script, want := range map[string]struct {
		code   int32
		reason string
	}{
		"exit 0":        {0, "Completed"},
		"exit 42":       {42, "Error"},
		"kill -SEGV $$": {128 + 11, "Error"},
	} {
		s := p.run(shell(script)).wait()
		same(t, script+": exit code", s.ExitCode, want.code)
		same(t, script+": reason", s.Reason, want.reason)
		if s.CreatedAt <= 0 || s.StartedAt < s.CreatedAt || s.FinishedAt < s.StartedAt {
			t.Errorf("%s: created %d, started %d, finished %d", script, s.CreatedAt, s.StartedAt, s.FinishedAt)
		}
	}
}
