package config

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// comments gives the comment above each key of default.yaml.
func comments(t *testing.T) map[string]string {
	t.Helper()
	var doc yaml.Node
	if err := yaml.Unmarshal(defaultYAML, &doc); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	var collect func(n *yaml.Node, section string)
	collect = func(n *yaml.Node, section string) {
		if n.Kind != yaml.MappingNode {
			return
		}
		for i := 0; i < len(n.Content); i += 2 {
			path := join(section, n.Content[i].Value)
			var words []string
			for line := range strings.Lines(n.Content[i].HeadComment) {
				words = append(words, strings.TrimSpace(strings.TrimPrefix(line, "#")))
			}
			found[path] = strings.Join(words, " ")
			collect(n.Content[i+1], path)
		}
	}
	collect(doc.Content[0], "")
	return found
}

func TestEveryKeyIsDocumented(t *testing.T) {
	documented := comments(t)
	var c Config
	for _, k := range keys(&c) {
		comment, ok := documented[k.path]
		switch {
		case !ok:
			t.Errorf("%s is not in default.yaml", k.path)
		case len(comment) < 10:
			t.Errorf("%s has no comment in default.yaml", k.path)
		case strings.HasSuffix(comment, "(live)") != k.live:
			t.Errorf("%s: tag reload says live=%v, the comment in default.yaml %q", k.path, k.live, comment)
		}
	}
}

// Every key is written at its default, so none is left to Go's zero value.
func TestDefaultSetsEveryKey(t *testing.T) {
	var c Config
	l := newLayering(&c)
	if err := l.add("default.yaml", defaultYAML); err != nil {
		t.Fatal(err)
	}
	for _, k := range keys(&c) {
		if _, ok := l.origins[k.path]; k.leaf && !ok {
			t.Errorf("%s is not set by default.yaml", k.path)
		}
	}
}

func TestDefaultIsValidAndLoadsBack(t *testing.T) {
	file := write(t, t.TempDir(), "berthd.yaml", DefaultYAML())
	loaded, err := Load(Source{File: file})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Address = "/run/berth/berth.sock"
	want.NRI.Socket = "/var/run/nri/nri.sock"
	if !reflect.DeepEqual(loaded.Config, want) {
		t.Errorf("loaded %+v\nwant %+v", loaded.Config, want)
	}
}

func TestDefaultsOfTheCommandLine(t *testing.T) {
	c := mustLoad(t, Source{File: "/nonexistent/berthd.yaml", Optional: true}).Config
	got := []any{c.Root, c.State, c.Address, c.Images.CertsDirs, c.Network.ConfDirs, c.Network.BinDirs}
	want := []any{"/var/lib/berth", "/run/berth", "/run/berth/berth.sock", []string{"/etc/berth/certs.d"}, []string{"/etc/cni/net.d"}, []string{"/opt/cni/bin"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDefaultIsAFreshCopy(t *testing.T) {
	a := Default()
	a.Network.ConfDirs[0] = "/changed"
	a.Runtime.Env["CHANGED"] = "1"
	if b := Default(); b.Network.ConfDirs[0] == "/changed" || len(b.Runtime.Env) != 0 {
		t.Error("a change to one default shows in the next")
	}
}

// A configuration in which nothing has its default comes back from Print.
func TestPrintLoadsBack(t *testing.T) {
	want := Default()
	fillWithOthers(&want)
	want.Runtime.Capabilities = []string{}
	var text bytes.Buffer
	if err := Print(&text, want, nil); err != nil {
		t.Fatal(err)
	}
	got := Default()
	if err := newLayering(&got).add("printed", text.Bytes()); err != nil {
		t.Fatalf("%v\n%s", err, text.String())
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("printed\n%s\nloads as %+v\nwant %+v", text.String(), got, want)
	}
}

// fillWithOthers gives every leaf but the identity another value, valid or not.
func fillWithOthers(c *Config) {
	for _, k := range keys(c) {
		if !k.leaf || k.path == "apiVersion" || k.path == "kind" {
			continue
		}
		switch v := k.value; v.Kind() {
		case reflect.String:
			v.SetString(v.String() + ": #'\"x\n 1")
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.Slice:
			v.Set(reflect.ValueOf([]string{"null", "0", "- a"}))
		case reflect.Map:
			m := reflect.MakeMap(v.Type())
			e := reflect.New(v.Type().Elem()).Elem()
			switch e.Interface().(type) {
			case string:
				e.SetString("true")
			case Handler:
				e.Set(reflect.ValueOf(Handler{
					Path: "/bin/other", Args: []string{"-x"}, Annotations: []string{"a/*"}, SeccompProfile: "/etc/p",
					PrivilegedWithoutHostDevices: true, Cgroup: HandlerCgroup{true, 7}, Rootfs: HandlerRootfs{true},
					Network: HandlerNetwork{[]string{"/etc/cni/other"}},
				}))
			default:
				e.Set(reflect.ValueOf(Rlimit{Soft: 1, Hard: -1}))
			}
			m.SetMapIndex(reflect.ValueOf("yes"), e)
			v.Set(m)
		default:
			v.SetInt(v.Int() + 3_600_000_000_007)
		}
	}
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func mustLoad(t *testing.T, src Source) *Loaded {
	t.Helper()
	loaded, err := Load(src)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}
