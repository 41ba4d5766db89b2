package classes

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func specification() *specs.Spec {
	return &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
}

func definitions(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "classes.yaml")
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

const (
	rdtPod     = "rdt.resources.beta.kubernetes.io/pod"
	blockioPod = "blockio.resources.beta.kubernetes.io/pod"
	blockioOne = "blockio.resources.beta.kubernetes.io/container.one"
)

func TestNodesWithoutClasses(t *testing.T) {
	c, err := New("", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(specification(), "one", nil, map[string]string{"other": "x"}); err != nil {
		t.Errorf("without annotations: %v", err)
	}
	for key, want := range map[string]string{rdtPod: "runtime.rdtConfigFile", blockioPod: "runtime.blockioConfigFile"} {
		err := c.Apply(specification(), "one", nil, map[string]string{key: "gold"})
		if !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), `"gold"`) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func TestBlockIO(t *testing.T) {
	c, err := New("", definitions(t, "Classes:\n  slow:\n  - Weight: 80\n  fast:\n  - Weight: 800\n"))
	if err != nil {
		t.Fatal(err)
	}
	for want, annotations := range map[uint16]map[string]string{
		80:  {blockioPod: "slow"},
		800: {blockioPod: "slow", blockioOne: "fast"},
	} {
		s := specification()
		if err := c.Apply(s, "one", nil, annotations); err != nil {
			t.Fatal(err)
		}
		if b := s.Linux.Resources.BlockIO; b == nil || b.Weight == nil || *b.Weight != want {
			t.Errorf("%v gives %+v, want weight %d", annotations, b, want)
		}
	}
	err = c.Apply(specification(), "one", nil, map[string]string{blockioPod: "bronze"})
	if !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), `"bronze"`) {
		t.Errorf("an unknown class: %v", err)
	}
}

func TestBadDefinitions(t *testing.T) {
	if _, err := New("", "/nonexistent/file"); err == nil || !strings.Contains(err.Error(), "runtime.blockioConfigFile") {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := New("", definitions(t, "Classes: [")); err == nil {
		t.Error("a file that is no YAML is taken")
	}
}
