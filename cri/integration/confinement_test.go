package integration

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func appArmor(kind runtimeapi.SecurityProfile_ProfileType, ref string) ctrOption {
	return security(func(s securityContext) {
		s.Apparmor = &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	})
}

func nodeHasAppArmor() bool {
	on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	_, err2 := os.Stat("/sys/kernel/security/apparmor")
	return err == nil && err2 == nil && bytes.HasPrefix(on, []byte("Y"))
}

// On a node without AppArmor, as the builders of this project are, the default
// profile means none, and one by name is refused; on one with it, as the virtual
// machine is, profiles hold for the first process and for an exec.
func TestAppArmor(t *testing.T) {
	if !nodeHasAppArmor() {
		p := runPod(t, hostNetwork, func(c *runtimeapi.PodSandboxConfig) {
			c.Linux.SecurityContext.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		})
		older := func(profile string) ctrOption {
			return security(func(s securityContext) {
				//lint:ignore SA1019 clients still send it
				s.ApparmorProfile = profile
			})
		}
		same(t, "the default profile by older means", p.output(older("runtime/default"), shell("echo it runs")), "it runs")
		if _, err := p.tryCreate(older("localhost/some-profile")); statusCode(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), `"some-profile"`) {
			t.Errorf("a profile by older means: %v", err)
		}
		same(t, "the default profile", p.output(appArmor(runtimeapi.SecurityProfile_RuntimeDefault, ""), shell("echo it runs")), "it runs")
		_, err := p.tryCreate(appArmor(runtimeapi.SecurityProfile_Localhost, "some-profile"))
		if statusCode(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), `"some-profile"`) {
			t.Errorf("a profile of a node without AppArmor: %v", err)
		}
		return
	}
	loadProfile(t, "berth-test-local", "file, network, capability, unix, signal, ptrace, umount, deny /tmp/denied wl,")
	p := runPod(t, hostNetwork, privilegedPod)
	const current = "cat /proc/self/attr/current"
	for name, c := range map[string]struct {
		option ctrOption
		want   string
	}{
		"default":    {appArmor(runtimeapi.SecurityProfile_RuntimeDefault, ""), "berth-default (enforce)"},
		"unset":      {security(func(securityContext) {}), "berth-default (enforce)"},
		"unconfined": {appArmor(runtimeapi.SecurityProfile_Unconfined, ""), "unconfined"},
		"local":      {appArmor(runtimeapi.SecurityProfile_Localhost, "berth-test-local"), "berth-test-local (enforce)"},
		"deprecated": {security(func(s securityContext) {
			//lint:ignore SA1019 clients still send it
			s.ApparmorProfile = "localhost/berth-test-local"
		}), "berth-test-local (enforce)"},
		"privileged": {security(func(s securityContext) { s.Privileged = true }), "unconfined"},
	} {
		ctr := p.run(c.option, shell(current+"; sleep 3600"))
		eventually(t, "the container writes", func() bool { return ctr.stdout() != "" })
		same(t, name, ctr.stdout(), c.want)
		same(t, name+", exec", ctr.sh(current), c.want)
		if name == "local" {
			same(t, "what the profile denies", ctr.sh("touch /tmp/denied 2>/dev/null || touch /tmp/allowed && ls /tmp"), "allowed")
		}
		if name == "default" {
			ctr.stop(0) // a signal from the node reaches it
		}
	}
	mounts := p.run(appArmor(runtimeapi.SecurityProfile_RuntimeDefault, ""), security(func(s securityContext) {
		s.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
		s.Seccomp = nil
	}))
	same(t, "mounting under the default profile", mounts.sh("mount -t tmpfs x /tmp 2>/dev/null || echo refused"), "refused")
	for _, ref := range []string{"no-such-profile", "berth-test", "berth-default (enforce)"} {
		_, err := p.tryCreate(appArmor(runtimeapi.SecurityProfile_Localhost, ref))
		if statusCode(err) != codes.NotFound || !strings.Contains(err.Error(), ref) {
			t.Errorf("the profile %q, which is not loaded: %v", ref, err)
		}
	}
}

// loadProfile loads a profile into the kernel until the test's end.
func loadProfile(t *testing.T, name, rules string) {
	t.Helper()
	text := "profile " + name + " flags=(attach_disconnected) {\n" + rules + "\n}\n"
	for _, step := range []string{"--replace", "--remove"} {
		load := func() {
			cmd := exec.Command("/sbin/apparmor_parser", "--skip-cache", step)
			cmd.Stdin = strings.NewReader(text)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("apparmor_parser %s: %v: %s", step, err, out)
			}
		}
		if step == "--remove" {
			t.Cleanup(load)
		} else {
			load()
		}
	}
}

// Classes that the node does not have are refused by name.
func TestResourceClasses(t *testing.T) {
	for key, want := range map[string]string{
		"rdt.resources.beta.kubernetes.io/pod":     "RDT class \"gold\"",
		"blockio.resources.beta.kubernetes.io/pod": "block I/O class \"gold\"",
	} {
		p := runPod(t, hostNetwork, func(c *runtimeapi.PodSandboxConfig) { c.Annotations = map[string]string{key: "gold"} })
		_, err := p.tryCreate()
		if statusCode(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", key, err)
		}
		same(t, "containers", p.containers(), 0)
	}
	dir := shortDir(t)
	d := ownDaemon(t, "runtime:\n  blockioConfigFile: "+write(t, dir+"/blockio.yaml", "Classes:\n  none: []\n  slow:\n  - Weight: 100\n")+"\n")
	p := d.runPod(t, hostNetwork, func(c *runtimeapi.PodSandboxConfig) {
		c.Annotations = map[string]string{"blockio.resources.beta.kubernetes.io/pod": "none", "blockio.resources.beta.kubernetes.io/container.fast": "platinum"}
	})
	p.run()
	_, err := p.tryCreate(func(c *runtimeapi.ContainerConfig) { c.Metadata.Name = "fast" })
	if statusCode(err) != codes.NotFound || !strings.Contains(err.Error(), `"platinum"`) {
		t.Errorf("a class that is not defined: %v", err)
	}
}
