package cni

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

const dualStackTemplate = `{
  "cniVersion": "1.0.0", "name": "pods",
  "plugins": [{
    "type": "bridge",
    "ipam": {
      "type": "host-local",
      "ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
      "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]
    }
  }]
}`

func prefixes(t *testing.T, texts ...string) (all []netip.Prefix) {
	t.Helper()
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestPodCIDRsBecomeTheNetwork(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "template")
	conf := filepath.Join(dir, "net.d")
	if err := os.WriteFile(file, []byte(dualStackTemplate), 0o600); err != nil {
		t.Fatal(err)
	}
	n := New(Options{ConfDirs: []string{conf}, BinDirs: []string{dir}, StateDir: dir, Template: file})
	if got := n.Status().Reason; got != ReasonNoConfig {
		t.Fatalf("before: %q", got)
	}
	if err := n.SetPodCIDRs(t.Context(), prefixes(t, "10.7.0.0/24", "fd00:7::/64")); err != nil {
		t.Fatal(err)
	}
	net := n.network()
	if net == nil || net.list.Name != "pods" {
		t.Fatalf("network in force: %+v", net)
	}
	for _, want := range []string{`"ranges":[[{"subnet":"10.7.0.0/24"}],[{"subnet":"fd00:7::/64"}]]`, `"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]`} {
		if !strings.Contains(string(net.list.Bytes), want) {
			t.Errorf("%s is not in %s", want, net.list.Bytes)
		}
	}

	written := filepath.Join(conf, templatedConfig)
	before, err := os.Stat(written)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.SetPodCIDRs(t.Context(), prefixes(t, "10.7.0.0/24", "fd00:7::/64")); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(written); err != nil || !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("the file was written again: %v", err)
	}
	if err := n.SetPodCIDRs(t.Context(), prefixes(t, "10.8.0.0/24")); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(n.network().list.Bytes), "10.8.0.0/24") {
		t.Errorf("network in force: %s", n.network().list.Bytes)
	}
	entries, err := os.ReadDir(conf)
	if err != nil || len(entries) != 1 {
		t.Errorf("files: %v, %v", entries, err)
	}
}

func TestATemplateThatMakesNoNetwork(t *testing.T) {
	for name, text := range map[string]string{
		"no template":       `{{.PodCIDR`,
		"a misspelt name":   `{"name": "{{.PodCidr}}"}`,
		"not JSON":          `name: {{.PodCIDR}}`,
		"a network of none": `{"cniVersion": "1.0.0", "name": "pods", "plugins": []}`,
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "template")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		n := New(Options{ConfDirs: []string{dir}, BinDirs: []string{dir}, StateDir: dir, Template: file})
		err := n.SetPodCIDRs(t.Context(), prefixes(t, "10.7.0.0/24"))
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(dir, templatedConfig)); !os.IsNotExist(err) {
			t.Errorf("%s: a file was written: %v", name, err)
		}
	}
	n := New(Options{ConfDirs: []string{t.TempDir()}, StateDir: t.TempDir(), Template: "/nonexistent/template"})
	if err := n.SetPodCIDRs(t.Context(), prefixes(t, "10.7.0.0/24")); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a template that is not there: %v", err)
	}
	if err := n.SetPodCIDRs(t.Context(), nil); err != nil {
		t.Errorf("no prefix: %v", err)
	}
	n = New(Options{ConfDirs: []string{t.TempDir()}, StateDir: t.TempDir()})
	if err := n.SetPodCIDRs(t.Context(), prefixes(t, "10.7.0.0/24")); err != nil {
		t.Errorf("without a template: %v", err)
	}
}
