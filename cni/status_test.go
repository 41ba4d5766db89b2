package cni

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func wantStatus(t *testing.T, n *Networks, ready bool, reason string, parts ...string) {
	t.Helper()
	status := n.Status()
	if status.Ready != ready || status.Reason != reason {
		t.Errorf("status %+v", status)
	}
	for _, part := range parts {
		if !strings.Contains(status.Message, part) {
			t.Errorf("message %q does not say %q", status.Message, part)
		}
	}
}

func TestNoConfiguration(t *testing.T) {
	h := newHost(t)
	opts := h.options()
	opts.ConfDirs = append(opts.ConfDirs, filepath.Join(h.conf, "not-there"))
	h.writeRaw("README.md", "not a network")
	h.writeRaw(".10-hidden.conflist", "{")
	if err := os.Mkdir(filepath.Join(h.conf, "00.conflist"), 0o700); err != nil {
		t.Fatal(err)
	}
	n := New(opts)
	wantStatus(t, n, false, ReasonNoConfig, opts.ConfDirs[0], opts.ConfDirs[1], "no network configuration")
	_, err := n.Attach(context.Background(), somePod("pod1"))
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), h.conf) {
		t.Errorf("got %v", err)
	}
	h.clean()
}

func TestFirstConfigurationWins(t *testing.T) {
	h := newHost(t, "fake-main")
	second := t.TempDir()
	opts := h.options()
	opts.ConfDirs = append(opts.ConfDirs, second)
	if err := os.WriteFile(filepath.Join(second, "00.conf"), []byte(`{"cniVersion":"0.4.0","name":"second","type":"fake-main"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	n := New(opts)
	for _, step := range []struct{ file, content, want string }{
		{"", "", "second"},
		{"30.json", `{"cniVersion":"0.3.1","name":"json-single","type":"fake-main"}`, "json-single"},
		{"20.json", `{"cniVersion":"1.0.0","name":"json-list","plugins":[{"type":"fake-main"}]}`, "json-list"},
		{"10.conf", `{"cniVersion":"1.0.0","name":"conf","type":"fake-main"}`, "conf"},
		{"05.conflist", `{"cniVersion":"1.0.0","cniVersions":["1.1.0"],"name":"list","plugins":[{"type":"fake-main"}]}`, "list"},
	} {
		if step.file != "" {
			h.writeRaw(step.file, step.content)
		}
		n.reload()
		wantStatus(t, n, true, "")
		if got := n.network().list.Name; got != step.want {
			t.Errorf("%s: network %q, want %q", step.file, got, step.want)
		}
	}
	if got := n.network().list.CNIVersion; got != "1.1.0" {
		t.Errorf("version %q of several", got)
	}
}

func TestPluginsFromTheNetworksDirectory(t *testing.T) {
	h := newHost(t, "fake-main", "fake-meta")
	h.write("10.conflist", "shop", "1.1.0", h.main(nil))
	if err := os.Mkdir(filepath.Join(h.conf, "shop"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.writeRaw("shop/20-more.conf", `{"type":"fake-meta","fake":{"dir":"`+h.plugins+`"}}`)
	n := h.networks()
	attach(t, n, somePod("pod1"))
	if err := os.RemoveAll(h.conf); err != nil {
		t.Fatal(err)
	}
	if err := h.networks().Detach(context.Background(), "pod1"); err != nil {
		t.Fatal(err)
	}
	wantSteps(t, h, "fake-main ADD", "fake-meta ADD", "fake-meta DEL", "fake-main DEL")
}

func TestBrokenConfigurations(t *testing.T) {
	for name, test := range map[string]struct{ content, want string }{
		"cut off":           {`{"name":"x","plugins":[`, "unexpected end of JSON input"},
		"empty":             {``, "unexpected end of JSON input"},
		"no name":           {`{"cniVersion":"1.0.0","plugins":[{"type":"fake-main"}]}`, "name"},
		"name that climbs":  {`{"cniVersion":"1.0.0","name":"../x","plugins":[{"type":"fake-main"}]}`, "network name"},
		"no plugins":        {`{"cniVersion":"1.0.0","name":"x","plugins":[]}`, "no plugins"},
		"plugin of no type": {`{"cniVersion":"1.0.0","name":"x","plugins":[{"bridge":"b"}]}`, "type"},
		"type that climbs":  {`{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"../../bin/sh"}]}`, `"../../bin/sh" is not the name of a program`},
		"IPAM that climbs":  {`{"cniVersion":"1.0.0","name":"x","plugins":[{"type":"fake-main","ipam":{"type":"/bin/sh"}}]}`, `"/bin/sh" is not the name of a program`},
		"of the future":     {`{"cniVersion":"9.0.0","name":"x","plugins":[{"type":"fake-main"}]}`, "9.0.0"},
		"no version":        {`{"cniVersion":"new","name":"x","plugins":[{"type":"fake-main"}]}`, `"new"`},
		"endless":           {strings.Repeat(" ", maxConfigSize+1), "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, "fake-main")
			h.writeRaw("10.conflist", test.content)
			h.write("20.conflist", "whole", "1.0.0", h.main(nil))
			n := h.networks()
			wantStatus(t, n, false, ReasonInvalidConfig, filepath.Join(h.conf, "10.conflist"), test.want)

			// The same file breaks while its network is in force.
			h.write("10.conflist", "good", "1.0.0", h.main(nil))
			n.reload()
			wantStatus(t, n, true, "")
			h.writeRaw("10.conflist", test.content)
			n.reload()
			wantStatus(t, n, true, "", `network "good" stays as it was`, filepath.Join(h.conf, "10.conflist"), test.want)
			if attached := attach(t, n, somePod("pod1")); attached.Network != "good" {
				t.Errorf("attached to %q", attached.Network)
			}
		})
	}
}

func TestUnreadableDirectory(t *testing.T) {
	h := newHost(t)
	opts := h.options()
	opts.ConfDirs = []string{filepath.Join(h.plugins, "a-file")}
	if err := os.WriteFile(opts.ConfDirs[0], nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, New(opts), false, ReasonInvalidConfig, opts.ConfDirs[0], "not a directory")
}

func TestMissingPlugins(t *testing.T) {
	h := newHost(t, "fake-main")
	main := h.main(nil)
	main["ipam"] = map[string]string{"type": "fake-ipam"}
	h.write("10.conflist", "shop", "1.0.0", main, h.fake("fake-meta", fake{}))
	n := h.networks()
	wantStatus(t, n, false, ReasonPluginMissing, `"shop"`, "10.conflist", "fake-ipam, fake-meta", h.bin)
	_, err := n.Attach(context.Background(), somePod("pod1"))
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), `CNI plugins "fake-ipam", "fake-meta" missing in `+h.bin) {
		t.Errorf("got %v", err)
	}
	h.clean()
	if h.steps() != nil {
		t.Error("a plugin was run")
	}
	h.install("fake-ipam")
	h.install("fake-meta")
	attach(t, n, somePod("pod1"))
	n.reload()
	wantStatus(t, n, true, "")
}

func TestPluginThatIsNotReady(t *testing.T) {
	h := newHost(t, "fake-main")
	h.write("10.conflist", "shop", "1.1.0", h.main(map[string]string{"STATUS": "fail"}))
	n := h.networks()
	running(t, n)
	eventually(t, "the status is known", func() bool { return !n.Status().Ready })
	wantStatus(t, n, false, ReasonPluginNotReady, `"shop"`, `plugin "fake-main", STATUS: no more addresses`)
	h.write("10.conflist", "shop", "1.1.0", h.main(nil))
	eventually(t, "the network is ready", func() bool { return n.Status().Ready })
}

func TestRunFollowsTheDirectories(t *testing.T) {
	h := newHost(t)
	opts := h.options()
	deep := filepath.Join(h.conf, "made", "later")
	opts.ConfDirs = []string{deep}
	n := New(opts)
	running(t, n)
	wantStatus(t, n, false, ReasonNoConfig)

	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	h.write("made/later/10.conflist", "shop", "1.0.0", h.main(nil))
	eventually(t, "the configuration is seen", func() bool { return n.Status().Reason == ReasonPluginMissing })
	h.install("fake-main")
	eventually(t, "the plugin is seen", func() bool { return n.Status().Ready })
	h.writeRaw("made/later/10.conflist", "{")
	eventually(t, "the breakage is seen", func() bool { return n.Status().Message != "" })
	wantStatus(t, n, true, "", "stays as it was")
	h.write("made/later/05.conflist", "mall", "1.0.0", h.main(nil))
	eventually(t, "the new network is seen", func() bool { return n.network().list.Name == "mall" })
	if err := os.RemoveAll(filepath.Join(h.conf, "made")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the removal is seen", func() bool { return n.Status().Reason == ReasonNoConfig })
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	h.write("made/later/10.conflist", "shop", "1.0.0", h.main(nil))
	eventually(t, "the return is seen", func() bool { return n.Status().Ready })
}
