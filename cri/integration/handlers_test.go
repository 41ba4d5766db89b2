package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// runc is the runc that the tests use as a handler: the one beside the programs, else it is
// built.
func runc(t testing.TB) string {
	t.Helper()
	if path := filepath.Join(bin, "runc"); filepath.IsAbs(path) {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, ".cache", "runc")
	cmd := exec.Command("make", "-s", path)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build runc: %v\n%s", err, out)
	}
	return path
}

// runPodBy runs a pod by a handler.
func (d *daemon) runPodBy(t testing.TB, handler string, options ...podOption) *pod {
	t.Helper()
	config := podConfig(t, options...)
	id, err := d.runtime.RunPodSandbox(context.Background(), config, handler)
	if err != nil {
		t.Fatalf("run a pod by %q: %v", handler, err)
	}
	p := &pod{t, d, id, config}
	t.Cleanup(p.remove)
	return p
}

// script writes a program.
func script(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// A handler is picked by its name, and runs the whole of a container's life.
func TestHandlerOfAPod(t *testing.T) {
	d := ownDaemon(t, fmt.Sprintf("runtimes:\n  runc: {path: %s}\n", runc(t)))
	first := d.runPod(t, hostNetwork, pids(runtimeapi.NamespaceMode_POD)) // opens what is opened once
	first.run().sh("true")
	first.remove()
	checkLeaks(t, d)
	p := d.runPodBy(t, "runc", pids(runtimeapi.NamespaceMode_POD))
	same(t, "handler of the pod", p.status().RuntimeHandler, "runc")
	c := p.run(shell("trap 'echo asked; exit 7' TERM; echo out; echo err >&2; while :; do sleep 0.1; done"))
	eventually(t, "the output is logged", func() bool { return c.logText("stdout") == "out\n" && c.logText("stderr") == "err\n" })
	same(t, "output of an exec", c.sh("echo from inside; ps | grep -q 'echo [o]ut' && echo beside it"), "from inside\nbeside it")
	bundle := filepath.Join(d.State, "monitor", "bundles", c.id)
	if _, err := os.Stat(filepath.Join(bundle, "config.json")); err != nil {
		t.Errorf("runc has no bundle: %v", err)
	}
	// Not a child of runc, which has ended: of the monitor.
	stat, err := os.ReadFile("/proc/" + c.hostPid() + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "parent", strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[1], strconv.Itoa(d.monitor(t)))
	c.stop(20)
	s := c.wait()
	same(t, "exit code", s.ExitCode, 7)
	same(t, "reason", s.Reason, "Error")
	same(t, "last output", c.logText("stdout"), "out\nasked\n")
	if err := d.runtime.RemoveContainer(t.Context(), c.id); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(bundle); !os.IsNotExist(err) {
		t.Errorf("the bundle is left: %v", err)
	}
}

// What runs by another runtime survives the end of both programs.
func TestHandlerSurvivesKills(t *testing.T) {
	d := ownDaemon(t, fmt.Sprintf("runtimes:\n  runc: {path: %s}\n", runc(t)))
	p := d.runPodBy(t, "runc", hostNetwork)
	c := p.run(shell("i=0; while [ ! -e /end ]; do i=$((i+1)); echo $i; sleep 0.02; done; exit 5"))
	eventually(t, "it writes", func() bool { return len(c.log()) > 3 })
	if err := syscall.Kill(d.monitor(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "exec works again", func() bool {
		_, _, err := d.runtime.ExecSync(t.Context(), c.id, []string{"true"}, patience)
		return err == nil
	})
	d.restart(t, syscall.SIGKILL)
	write(t, c.file("/end"), "")
	same(t, "exit code", c.wait().ExitCode, 5)
	for i, line := range c.log() {
		if line.text != strconv.Itoa(i+1) {
			t.Fatalf("line %d of the log is %q", i+1, line.text)
		}
	}
}

func TestHandlersInStatus(t *testing.T) {
	hung := script(t, "hung", "BERTH_NEVER=$0 exec sleep 1000")
	t.Cleanup(func() { killAll(t, hung) })
	old := script(t, "old", `[ "$1" = --version ] && echo old version 0.1 || exit 1`)
	d := ownDaemon(t, fmt.Sprintf(`runtimes:
  runc: {path: %s}
  gone: {path: /usr/bin/no-such-runtime}
  hung: {path: %s}
  old: {path: %s}
  plain: {rootfs: {readonly: true}}
`, runc(t), hung, old))
	var s *runtimeapi.StatusResponse
	features := map[string]string{}
	eventually(t, "the programs are asked", func() bool {
		var err error
		if s, err = d.runtime.Status(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		for _, h := range s.RuntimeHandlers {
			features[h.Name] = fmt.Sprint(h.Features.GetRecursiveReadOnlyMounts())
		}
		return features["runc"] == "true" && strings.Contains(s.Info["handlers"], "old version 0.1")
	})
	want := map[string]string{"": "true", "berth": "true", "runc": "true", "plain": "true", "gone": "false", "hung": "false", "old": "false"}
	if os.Getenv("BERTH_TEST_HANDLER") != "" {
		want["tested"] = features["tested"]
		want[""] = features[""]
	}
	if fmt.Sprint(features) != fmt.Sprint(want) {
		t.Errorf("recursive read-only mounts: %v, want %v", features, want)
	}
	var info []struct{ Name, Path, Version, OCIVersion, Error string }
	if err := json.Unmarshal([]byte(s.Info["handlers"]), &info); err != nil {
		t.Fatal(err)
	}
	for _, h := range info {
		switch h.Name {
		case "runc":
			same(t, "version of runc", h.Version, "runc version 1.5.2")
		case "old":
			same(t, "specification for the old one", h.OCIVersion, "1.0.2")
		case "gone", "hung":
			if h.Error == "" {
				t.Errorf("%+v has no error", h)
			}
		}
	}
	_, err := d.runtime.RunPodSandbox(t.Context(), podConfig(t, hostNetwork), "gone")
	wantCode(t, "a program that is not there", err, failedPrecondition)
	if err == nil || !strings.Contains(err.Error(), "/usr/bin/no-such-runtime") {
		t.Errorf("the error does not name it: %v", err)
	}
	_, err = d.runtime.RunPodSandbox(t.Context(), podConfig(t, hostNetwork), "kata")
	wantCode(t, "an unknown handler", err, invalidArgument)
	if err == nil || !strings.Contains(err.Error(), `"runc"`) {
		t.Errorf("the error does not name those that there are: %v", err)
	}
}

// killAll ends the processes that run a script which never ends.
func killAll(t testing.TB, path string) {
	t.Helper()
	for _, dir := range glob(t, "/proc/[0-9]*") {
		args, err := os.ReadFile(dir + "/environ")
		if err != nil || !strings.Contains(string(args), "BERTH_NEVER="+path) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// A runtime that hangs holds up its own container and nothing else.
func TestHandlerThatHangs(t *testing.T) {
	flag := filepath.Join(t.TempDir(), "end")
	slow := script(t, "slow", fmt.Sprintf(`case "$*" in
*" create "*) while [ ! -e %[1]s ]; do sleep 0.05; done; while [ $# -gt 0 ]; do [ "$1" = --log ] && echo '{"level":"error","msg":"it was too slow"}' > $2; shift; done; exit 1 ;;
*) exec %[2]s "$@" ;;
esac`, flag, runc(t)))
	d := ownDaemon(t, fmt.Sprintf("runtimes:\n  slow: {path: %s}\n", slow))
	p := d.runPodBy(t, "slow", hostNetwork)
	c := p.create()
	ended := make(chan error, 1)
	go func() { ended <- d.runtime.StartContainer(context.Background(), c.id) }()
	same(t, "a pod beside it", d.runPod(t, hostNetwork).run().sh("echo works"), "works")
	if _, err := d.runtime.ListContainers(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if _, err := d.runtime.Status(t.Context(), false); err != nil {
		t.Error(err)
	}
	write(t, flag, "")
	err := <-ended
	if err == nil || !strings.Contains(err.Error(), "slow create: it was too slow") {
		t.Errorf("the start: %v", err)
	}
	s := c.wait()
	same(t, "reason", s.Reason, "ContainerCannotRun")
	if !strings.Contains(s.Message, "it was too slow") {
		t.Errorf("message %q", s.Message)
	}
}

// Handlers come and go at SIGHUP; what runs stays.
func TestHandlersAreReloaded(t *testing.T) {
	d := ownDaemon(t, "")
	dropIn := filepath.Join(d.Dir, "berthd.yaml.d", "50-handlers.yaml")
	if err := os.MkdirAll(filepath.Dir(dropIn), 0o755); err != nil {
		t.Fatal(err)
	}
	head := "apiVersion: berth.dev/v1alpha1\nkind: BerthConfiguration\n"
	known := func(name string) bool {
		s, err := d.runtime.Status(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range s.RuntimeHandlers {
			if h.Name == name {
				return true
			}
		}
		return false
	}
	reload := func(text string, want bool) {
		t.Helper()
		write(t, dropIn, head+text)
		if err := syscall.Kill(d.PID(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the configuration is reloaded", func() bool { return known("late") == want })
	}
	reload(fmt.Sprintf("runtimes: {late: {path: %s}}\n", runc(t)), true)
	p := d.runPodBy(t, "late", hostNetwork)
	c := p.run()
	reload("runtimes: {}\n", false)
	same(t, "output of what runs", c.sh("echo here"), "here")
	_, err := p.tryCreate()
	wantCode(t, "a container of a handler that is gone", err, failedPrecondition)
	c.stop(0)
	same(t, "exit code", c.wait().ExitCode, 128+9)
}

// What a handler says of its containers holds for the built-in runtime too.
func TestHandlerSettings(t *testing.T) {
	profile := filepath.Join(t.TempDir(), "profile.json")
	write(t, profile, `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}`)
	net := t.TempDir()
	for name, path := range map[string]string{"berth": "", "runc": runc(t)} {
		t.Run(name, func(t *testing.T) {
			d := ownDaemon(t, fmt.Sprintf(`runtimes:
  strict:
    path: %q
    annotations: [example.org/*]
    seccompProfile: %s
    privilegedWithoutHostDevices: true
    cgroup: {minMemory: 33554432}
    rootfs: {readonly: true}
  apart: {path: %q, network: {confDirs: [%s]}}
`, path, profile, path, net))
			p := d.runPodBy(t, "strict", hostNetwork, privilegedPod, func(c *runtimeapi.PodSandboxConfig) {
				c.Annotations = map[string]string{"example.org/pod": "1", "other.org/pod": "2"}
			})
			c := p.run()
			same(t, "root file system and profile", c.sh("touch /x 2>/dev/null || echo read-only; mkdir /dev/shm/d 2>/dev/null || echo refused"), "read-only\nrefused")
			r, err := d.runtime.ContainerStatus(t.Context(), c.id, true)
			if err != nil {
				t.Fatal(err)
			}
			if info := r.Info["info"]; !strings.Contains(info, "example.org/pod") || strings.Contains(info, `"annotations":{"other.org`) {
				t.Errorf("annotations of the specification: %s", info)
			}
			all := p.run(security(func(s *runtimeapi.LinuxContainerSecurityContext) { s.Privileged = true; s.Seccomp = nil }))
			same(t, "devices of a privileged container", all.sh("ls /dev/kmsg /dev/loop-control 2>/dev/null | wc -l"), "0")
			_, err = p.tryCreate(resources(func(r *runtimeapi.LinuxContainerResources) { r.MemoryLimitInBytes = 16 << 20 }))
			wantCode(t, "too low a memory limit", err, invalidArgument)

			_, err = d.runtime.RunPodSandbox(t.Context(), podConfig(t), "apart")
			if err == nil || !strings.Contains(err.Error(), net) {
				t.Errorf("a pod whose own network is not configured: %v", err)
			}
			conf, err := os.ReadFile(filepath.Join(d.NetworkDir(), "10-test.conflist"))
			if err != nil {
				t.Fatal(err)
			}
			other := strings.ReplaceAll(string(conf), fmt.Sprintf("10.250.%d.", d.Subnet), fmt.Sprintf("10.249.%d.", d.Subnet))
			write(t, filepath.Join(net, "10.conflist"), strings.Replace(other, `"name": "`, `"name": "x`, 1))
			defer os.Remove(filepath.Join(net, "10.conflist"))
			apart := d.runPodBy(t, "apart")
			if ip := apart.status().Network.Ip; !strings.HasPrefix(ip, "10.249.") {
				t.Errorf("the address of a pod with a network of its own is %s", ip)
			}
		})
	}
}
