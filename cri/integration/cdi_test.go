package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func cdiDevices(names ...string) ctrOption {
	return func(c *runtimeapi.ContainerConfig) {
		for _, n := range names {
			c.CDIDevices = append(c.CDIDevices, &runtimeapi.CDIDevice{Name: n})
		}
	}
}

func annotation(key, value string) ctrOption {
	return func(c *runtimeapi.ContainerConfig) {
		if c.Annotations == nil {
			c.Annotations = map[string]string{}
		}
		c.Annotations[key] = value
	}
}

// What a CDI file says of a device is there in the container, whichever way the
// device was asked for, and files can come while the daemon runs.
func TestCDIDevices(t *testing.T) {
	dir := shortDir(t)
	d := ownDaemon(t, "runtime:\n  cdiSpecDirs: ["+dir+"/cdi]\n")
	p := d.runPod(t, hostNetwork)
	if _, err := p.tryCreate(cdiDevices("vendor.test/gpu=one")); statusCode(err) != codes.NotFound || !strings.Contains(err.Error(), `"vendor.test/gpu=one"`) {
		t.Errorf("a device that nothing describes: %v", err)
	}
	write(t, dir+"/lib/driver.so", "a driver")
	hook := write(t, dir+"/hook.sh", "#!/bin/sh\ncat > "+dir+"/hook.state\necho $1 > "+dir+"/hook.ran\n")
	if err := os.Chmod(hook, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/cdi/vendor.yaml", `cdiVersion: "0.6.0"
kind: vendor.test/gpu
containerEdits:
  env: ["VENDOR=yes"]
devices:
- name: one
  containerEdits:
    env: ["WHICH=one"]
    deviceNodes: [{path: /dev/gpu/one, hostPath: /dev/loop-control, permissions: r}]
    mounts: [{hostPath: `+dir+`/lib, containerPath: /usr/lib/gpu, options: [ro, nosuid, bind]}]
    hooks: [{hookName: createRuntime, path: `+hook+`, args: [hook, ran]}]
- name: two
  containerEdits:
    env: ["SECOND=two"]
- name: broken
  containerEdits:
    deviceNodes: [{path: /dev/no-such-device-here}]
`)
	c := p.run(cdiDevices("vendor.test/gpu=one"), annotation("cdi.k8s.io/plugin", "vendor.test/gpu=two,vendor.test/gpu=one"))
	same(t, "environment", c.sh("echo $VENDOR $WHICH $SECOND"), "yes one two")
	same(t, "the device", c.sh("stat -c %t:%T /dev/gpu/one"), "a:ed")
	same(t, "opening it to read", c.sh("(: < /dev/gpu/one) 2>/dev/null && echo opened || echo refused"), "opened")
	same(t, "opening it to write", c.sh("(: > /dev/gpu/one) 2>/dev/null && echo opened || echo refused"), "refused")
	same(t, "the mount", c.sh("cat /usr/lib/gpu/driver.so; touch /usr/lib/gpu/x 2>/dev/null || echo , refused"), "a driver, refused")
	if ran, err := os.ReadFile(dir + "/hook.ran"); err != nil || string(ran) != "ran\n" {
		t.Errorf("the hook: %q, %v", ran, err)
	}
	if state, err := os.ReadFile(dir + "/hook.state"); err != nil || !strings.Contains(string(state), c.id) {
		t.Errorf("the state that the hook got: %q, %v", state, err)
	}
	without := p.run()
	same(t, "a container that did not ask", without.sh("echo \"$VENDOR\"; ls /dev/gpu /usr/lib/gpu 2>/dev/null || true"), "")

	containers := p.containers()
	for what, bad := range map[string]struct {
		option ctrOption
		code   codes.Code
		text   string
	}{
		"a device that is not described": {cdiDevices("vendor.test/gpu=three"), codes.NotFound, `"vendor.test/gpu=three"`},
		"a device that is not there":     {cdiDevices("vendor.test/gpu=broken"), codes.FailedPrecondition, "/dev/no-such-device-here"},
		"a short name":                   {cdiDevices("gpu0"), codes.InvalidArgument, "config.CDI_devices[0].name"},
		"a path":                         {cdiDevices("vendor.test/gpu=../../x"), codes.InvalidArgument, "config.CDI_devices[0].name"},
		"an annotation without a device": {annotation("cdi.k8s.io/plugin", ""), codes.InvalidArgument, "cdi.k8s.io/plugin"},
	} {
		if _, err := p.tryCreate(bad.option); statusCode(err) != bad.code || !strings.Contains(err.Error(), bad.text) {
			t.Errorf("%s: %v, want %v with %q", what, err, bad.code, bad.text)
		}
	}
	same(t, "containers", p.containers(), containers)
	if err := os.WriteFile(filepath.Join(dir, "cdi/vendor.yaml"), []byte("no: [yaml"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := p.tryCreate(cdiDevices("vendor.test/gpu=one")); statusCode(err) != codes.NotFound || !strings.Contains(err.Error(), "vendor.yaml") {
		t.Errorf("a file that is damaged: %v", err)
	}
}
