package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/berth-cri/berth/"

// pkg is what go list says of a package.
type pkg struct {
	ImportPath string
	Doc        string
	Imports    []string
	Deps       []string
}

func list(t *testing.T, pattern string) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-tags", "seccomp", "-json=ImportPath,Doc,Imports,Deps", pattern)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("list %s: %s", pattern, exit.Stderr)
		}
		t.Fatal(err)
	}
	var pkgs []pkg
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range list(t, "./...") {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// Each rule: packages below the first may not depend, directly or not, on those below
// the others.
func TestImportRules(t *testing.T) {
	rules := []struct {
		from string
		not  []string
		why  string
	}{
		{module + "config", []string{module}, "configuration is plain data"},
		{module + "operation", []string{module, "google.golang.org/", "k8s.io/", "go.opentelemetry.io/", "github.com/"}, "all report to it, so it knows none"},
		{module + "cni", []string{module + "cri", module + "runtimeservice", module + "imageservice"}, "networks know nothing of CRI"},
		{module + "imageservice", []string{module + "runtimeservice", module + "cri"}, "images know nothing of containers' lives"},
		{module + "runtimeservice", []string{module + "imageservice", module + "cri"}, "it declares what it needs of others"},
		{module + "cmd/berth-monitor", []string{"google.golang.org/grpc", "k8s.io/", "github.com/google/go-containerregistry"}, "it is started for every container, and must not fail"},
	}
	all := list(t, "./...")
	for _, rule := range rules {
		for _, p := range all {
			if !below(p.ImportPath, rule.from) {
				continue
			}
			for _, dep := range p.Deps {
				forbidden := slices.ContainsFunc(rule.not, func(not string) bool { return strings.HasPrefix(dep, not) })
				if forbidden && !below(dep, rule.from) {
					t.Errorf("%s depends on %s: %s", p.ImportPath, dep, rule.why)
				}
			}
		}
	}
}

func below(path, parent string) bool {
	return path == parent || strings.HasPrefix(path, parent+"/")
}

func TestNoPackageIsCalledByWhatItIsNot(t *testing.T) {
	for _, p := range list(t, "./...") {
		name := p.ImportPath[strings.LastIndex(p.ImportPath, "/")+1:]
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "misc"}, name) {
			t.Errorf("%s: the name does not say what the package does", p.ImportPath)
		}
	}
}
