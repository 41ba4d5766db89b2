package config

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write the list of keys in docs/configuration.md anew")

const (
	docsFile  = "../docs/configuration.md"
	docsBegin = "<!-- keys: written by go test ./config -update -->\n"
	docsEnd   = "<!-- end of keys -->\n"
)

// docs/configuration.md lists every key with its default and its meaning, as
// default.yaml has them.
func TestDocsListEveryKey(t *testing.T) {
	text, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), docsBegin)
	_, after, ok2 := strings.Cut(rest, docsEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has not the lines %q and %q", docsFile, docsBegin, docsEnd)
	}
	want := before + docsBegin + "\n" + reference(t) + "\n" + docsEnd + after
	if *update {
		if err := os.WriteFile(docsFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if string(text) != want {
		t.Errorf("%s is behind default.yaml: run go test ./config -update", docsFile)
	}
}

// reference is the list of keys in Markdown.
func reference(t *testing.T) string {
	meanings, c := comments(t), Default()
	var b strings.Builder
	table := false
	for _, k := range keys(&c) {
		if !k.leaf {
			fmt.Fprintf(&b, "\n### %s\n\n%s\n\n", k.path, meanings[k.path])
			table = false
			continue
		}
		if !table {
			b.WriteString("| key | default | at reload | meaning |\n| --- | --- | --- | --- |\n")
			table = true
		}
		reload := "next start"
		if k.live {
			reload = "taken over"
		}
		meaning := strings.ReplaceAll(strings.TrimSuffix(meanings[k.path], " (live)"), "|", `\|`)
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.path, defaultCell(t, k), reload, meaning)
	}
	return b.String()
}

// defaultCell is a default as one writes it into a file, on one line.
func defaultCell(t *testing.T, k key) string {
	var items []string
	for _, n := range encode(k.value, "", nil).Content {
		items = append(items, "`"+n.Value+"`")
	}
	if len(items) > 0 {
		return strings.Join(items, ", ")
	}
	text, err := yaml.Marshal(encode(k.value, "", nil))
	if err != nil {
		t.Fatal(err)
	}
	return "`" + strings.TrimSpace(string(text)) + "`"
}

// The configuration is read by programs that must not pull in the daemon's.
func TestImportsNoneOfOurPackages(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	const module = "github.com/berth-cri/berth/"
	for pkg := range strings.Lines(string(out)) {
		if pkg = strings.TrimSpace(pkg); strings.HasPrefix(pkg, module) && pkg != module+"config" {
			t.Errorf("config depends on %s", pkg)
		}
	}
}
