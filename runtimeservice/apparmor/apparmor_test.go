package apparmor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// node is a kernel's list of profiles, and a parser that adds what it is given.
func node(t *testing.T, loaded string) *Profiles {
	t.Helper()
	dir := t.TempDir()
	p := &Profiles{list: filepath.Join(dir, "profiles"), parser: filepath.Join(dir, "parser")}
	script := "#!/bin/sh\n[ \"$*\" = '--skip-cache --replace' ] || exit 9\nread kind name rest\necho \"$name (enforce)\" >> " + p.list + "\n"
	if err := errors.Join(os.WriteFile(p.list, []byte(loaded), 0o644), os.WriteFile(p.parser, []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRequire(t *testing.T) {
	p := node(t, "mine (enforce)\n/usr/bin/man (complain)\nlong name (unconfined)\nodd (x) (enforce)\n")
	for _, name := range []string{"mine", "/usr/bin/man", "long name", "odd (x)"} {
		if err := p.Require(t.Context(), name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"min", "mine (enforce)", "absent", "odd", "name"} {
		if err := p.Require(t.Context(), name); !errors.Is(err, errdefs.ErrNotFound) || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestDefaultProfileIsLoaded(t *testing.T) {
	p := node(t, "")
	for range 2 {
		if err := p.Require(t.Context(), DefaultProfile); err != nil {
			t.Fatal(err)
		}
	}
	list, err := os.ReadFile(p.list)
	if err != nil || string(list) != DefaultProfile+" (enforce)\n" {
		t.Errorf("loaded %q, %v", list, err)
	}
}

func TestNodesWithoutAppArmor(t *testing.T) {
	p := node(t, "")
	p.parser += "-absent"
	if err := p.Require(t.Context(), DefaultProfile); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("without a parser: %v", err)
	}
	p.list += "-absent"
	if err := p.Require(t.Context(), "mine"); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("without AppArmor: %v", err)
	}
}

func TestProfileText(t *testing.T) {
	text := profileText("some-name")
	for _, want := range []string{"profile some-name flags=", "\n  deny mount,\n", "peer=some-name,\n", "core_pattern", "\n}\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("the profile lacks %q:\n%s", want, text)
		}
	}
	for l := range strings.Lines(text) {
		if strings.HasPrefix(l, "  ") && !strings.HasSuffix(l, ",\n") {
			t.Errorf("rule %q does not end", l)
		}
	}
}
