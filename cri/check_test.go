package cri

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// long is more than a name, a path or a word may have, tooLong more than anything that is an
// argument, a variable or a secret.
var (
	long    = strings.Repeat("x", 5000)
	tooLong = strings.Repeat("x", 1<<17)
)

// badNames are refused wherever a name is.
var badNames = map[string]string{
	"empty": "", "path": "a/b", "parent": "..", "self": ".", "newline": "a\nb", "NUL": "a\x00b", "escape": "\x1b[2J", "long": long,
}

// badPaths are refused wherever an absolute path is.
var badPaths = map[string]string{
	"empty": "", "relative": "a/b", "newline": "/a\nb", "NUL": "/a\x00", "long": "/" + long,
}

func TestErrorsDoNotRepeatSecrets(t *testing.T) {
	for _, err := range []error{
		checkPullImage(&runtimeapi.PullImageRequest{
			Image: &runtimeapi.ImageSpec{Image: "a"}, Auth: &runtimeapi.AuthConfig{RegistryToken: "hunter2\n"},
		}),
		checkEnv("envs[0]", &runtimeapi.KeyValue{Key: "A", Value: []byte("hunter2\x00")}),
	} {
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error is %v", err)
		}
	}
}

func TestImageNames(t *testing.T) {
	for _, name := range []string{
		"busybox", "busybox:1.36", "library/busybox", "localhost:5000/a/b:v1", "registry.k8s.io/pause:3.10",
		imageID, imageID[:20], imageID[7:], imageID[7:15], "a@" + imageID, "a:v1@" + imageID, "[::1]:5000/a",
		"a@sha512:" + strings.Repeat("0", 128),
	} {
		if err := checkImageName("image", name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// Messages of repeated fields may be absent in Go, as in a request made by hand.
func TestChecksTakeNilMessages(t *testing.T) {
	c := goodContainerConfig()
	c.Envs = []*runtimeapi.KeyValue{nil}
	c.Mounts = []*runtimeapi.Mount{nil}
	if err := checkContainerConfig("config", c); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error is %v", err)
	}
	if err := checkRunPodSandbox(nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error is %v", err)
	}
	if err := checkCreateContainer(nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error is %v", err)
	}
	if err := checkSandboxConfig("config", &runtimeapi.PodSandboxConfig{
		Metadata: goodSandboxConfig().Metadata, PortMappings: []*runtimeapi.PortMapping{nil},
	}); err != nil {
		t.Errorf("error is %v", err)
	}
}
