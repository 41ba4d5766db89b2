package nri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/berth-cri/berth/runtimeservice/nri/nritest"
)

// The test program is also the plugin that a Plugins launches: it is told by its
// environment that it is one, and by its configuration where to write what it is told.
func TestMain(m *testing.M) {
	if os.Getenv(api.PluginNameEnvVar) != "" {
		bePlugin()
		return
	}
	SetLogger(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

func bePlugin() {
	p := &nritest.Plugin{}
	p.On = func(_ context.Context, e nritest.Event) error {
		return os.WriteFile(filepath.Join(p.Config, e.Name), []byte(os.Getenv(api.PluginIdxEnvVar)), 0o600)
	}
	if err := p.Launched(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-p.Closed()
}

// fakeRuntime has one pod and remembers updates.
type fakeRuntime struct{ updated []string }

func (f *fakeRuntime) State(context.Context) ([]*api.PodSandbox, []*api.Container, error) {
	return []*api.PodSandbox{{Id: "pod"}}, nil, nil
}

func (f *fakeRuntime) Update(_ context.Context, u *api.ContainerUpdate) error {
	if u.ContainerId == "bad" {
		return errors.New("no such container")
	}
	f.updated = append(f.updated, u.ContainerId)
	return nil
}

func startPlugins(t *testing.T, change func(*Options)) (*Plugins, string) {
	t.Helper()
	dir := t.TempDir()
	opts := Options{
		Socket: filepath.Join(dir, "nri.sock"), PluginDir: filepath.Join(dir, "plugins"), ConfigDir: filepath.Join(dir, "conf.d"),
		RegistrationTimeout: 10 * time.Second, RequestTimeout: 10 * time.Second, Version: "v1",
	}
	if change != nil {
		change(&opts)
	}
	p := New(opts)
	if err := p.Start(&fakeRuntime{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p, opts.Socket
}

func connect(t *testing.T, socket string, p *nritest.Plugin) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := p.Connect(ctx, socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
}

func TestWithoutPlugins(t *testing.T) {
	var nobody *Turn
	p, _ := startPlugins(t, nil)
	turn := p.Begin()
	defer turn.End()
	for _, turn := range []*Turn{nobody, turn} {
		if turn.Active() {
			t.Error("a turn without plugins is active")
		}
		adjust, changes, err := turn.CreateContainer(t.Context(), nil, nil)
		if adjust != nil || changes.Updates != nil || err != nil {
			t.Errorf("a creation gives %v, %v, %v", adjust, changes, err)
		}
		if err := turn.RunPodSandbox(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
	nobody.End()
	if turn := New(Options{}).Begin(); turn != nil {
		t.Error("plugins that were not started have a turn")
	}
}

func TestPluginConnects(t *testing.T) {
	registry := prometheus.NewRegistry()
	plugins, socket := startPlugins(t, func(o *Options) { o.Registry = registry })
	var pods []string
	plugin := &nritest.Plugin{Name: "one", Synced: func(all []*api.PodSandbox, _ []*api.Container) []*api.ContainerUpdate {
		for _, pod := range all {
			pods = append(pods, pod.Id)
		}
		return []*api.ContainerUpdate{{ContainerId: "updated"}, {ContainerId: "bad"}}
	}}
	connect(t, socket, plugin)
	turn := plugins.Begin() // waits until the plugin has joined
	defer turn.End()
	if !slices.Equal(pods, []string{"pod"}) || !turn.Active() {
		t.Errorf("told of pods %v, active %v", pods, turn.Active())
	}
	if updated := plugins.runtime.(*fakeRuntime).updated; !slices.Equal(updated, []string{"updated"}) {
		t.Errorf("updated %v", updated)
	}
	if err := turn.RunPodSandbox(t.Context(), &api.PodSandbox{Id: "new"}); err != nil {
		t.Error(err)
	}
	if got := plugin.Names("new"); !slices.Equal(got, []string{"RunPodSandbox"}) {
		t.Errorf("events %v", got)
	}
	failed, err := plugin.Ask(&api.ContainerUpdate{ContainerId: "bad"}, &api.ContainerUpdate{ContainerId: "again"})
	if err != nil || len(failed) != 1 || failed[0].ContainerId != "bad" {
		t.Errorf("failed updates %v, %v", failed, err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(families, func(f *dto.MetricFamily) bool { return f.GetName() == "berth_nri_plugins" })
	if at < 0 || families[at].Metric[0].GetGauge().GetValue() != 1 {
		t.Errorf("the metrics are %v", families)
	}
}

// What plugins have removed is removed, though the library does not say so.
func TestRemovalsAreMarked(t *testing.T) {
	plugins, socket := startPlugins(t, nil)
	connect(t, socket, &nritest.Plugin{Name: "one", Create: func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate) {
		a := &api.ContainerAdjustment{}
		a.RemoveEnv("A")
		a.AddEnv("B", "2")
		a.RemoveDevice("/dev/a")
		return a, nil
	}})
	turn := plugins.Begin()
	defer turn.End()
	adjust, _, err := turn.CreateContainer(t.Context(), &api.PodSandbox{Id: "p"}, &api.Container{
		Id: "c", Env: []string{"A=1", "B=1", "C=1"},
		Linux: &api.LinuxContainer{Devices: []*api.LinuxDevice{{Path: "/dev/a"}, {Path: "/dev/b"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := adjustEnv([]string{"A=1", "B=1", "C=1"}, adjust.Env); !slices.Equal(got, []string{"B=2", "C=1"}) {
		t.Errorf("the environment is %v", got)
	}
	if d := adjust.GetLinux().GetDevices(); len(d) != 1 || d[0].Path != "-/dev/a" {
		t.Errorf("the devices are %v", d)
	}
}

func TestInstalledPlugin(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	told := t.TempDir()
	plugins, socket := startPlugins(t, func(o *Options) {
		o.Socket = ""
		for _, dir := range []string{o.PluginDir, o.ConfigDir} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(self, filepath.Join(o.PluginDir, "42-self")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(o.ConfigDir, "self.conf"), []byte(told), 0o644); err != nil {
			t.Fatal(err)
		}
		// Does not register: it is left out, and nothing fails.
		if err := os.WriteFile(filepath.Join(o.PluginDir, "10-broken"), []byte("#!/bin/false\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := os.Stat(socket); err == nil {
		t.Error("there is a socket")
	}
	turn := plugins.Begin()
	defer turn.End()
	if !turn.Active() {
		t.Fatal("the installed plugin does not take part")
	}
	if err := turn.StopPodSandbox(t.Context(), &api.PodSandbox{Id: "p"}); err != nil {
		t.Error(err)
	}
	for _, event := range []string{"Synchronize", "StopPodSandbox"} {
		if index, err := os.ReadFile(filepath.Join(told, event)); err != nil || string(index) != "42" {
			t.Errorf("%s: %q, %v", event, index, err)
		}
	}
}

func TestSocketOfAnother(t *testing.T) {
	_, socket := startPlugins(t, nil)
	startPlugins(t, func(o *Options) { o.Socket = socket })
	plugin := &nritest.Plugin{Name: "one"}
	connect(t, socket, plugin) // the first still serves

	// A runtime that knows nothing of the lock.
	foreign := filepath.Join(t.TempDir(), "foreign.sock")
	listener, err := net.Listen("unix", foreign)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	before, err := os.Stat(foreign)
	if err != nil {
		t.Fatal(err)
	}
	startPlugins(t, func(o *Options) { o.Socket = foreign })
	if after, err := os.Stat(foreign); err != nil || !os.SameFile(before, after) {
		t.Errorf("the other's socket was replaced: %v", err)
	}
}

func TestPluginDirectoryThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "no-index"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	p := New(Options{PluginDir: dir, ConfigDir: dir, RegistrationTimeout: time.Second, RequestTimeout: time.Second})
	defer p.Stop()
	if err := p.Start(&fakeRuntime{}); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("the error does not name the directory: %v", err)
	}
}

// BenchmarkTurn is what a step of a pod's start costs where no plugin is connected.
func BenchmarkTurn(b *testing.B) {
	dir := b.TempDir()
	p := New(Options{Socket: filepath.Join(dir, "nri.sock"), PluginDir: dir, ConfigDir: dir, RegistrationTimeout: time.Second, RequestTimeout: time.Second})
	if err := p.Start(&fakeRuntime{}); err != nil {
		b.Fatal(err)
	}
	defer p.Stop()
	b.ReportAllocs()
	for b.Loop() {
		turn := p.Begin()
		if turn.Active() {
			b.Fatal("there is a plugin")
		}
		turn.End()
	}
}
