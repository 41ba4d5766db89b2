package hosts

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// write makes dir/<name>/hosts.toml.
func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, fileName), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, registry string, dirs ...string) []Host {
	t.Helper()
	list, warnings, err := Load(dirs, registry)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	return list
}

func names(list []Host) string {
	var s []string
	for _, h := range list {
		s = append(s, h.Scheme+"://"+h.Addr+h.Path)
	}
	return strings.Join(s, " ")
}

func TestWithoutFile(t *testing.T) {
	for registry, want := range map[string]string{
		"docker.io":        "https://registry-1.docker.io/v2",
		"gcr.io":           "https://gcr.io/v2",
		"localhost:5000":   "https://localhost:5000/v2",
		"127.0.0.1:80":     "http://127.0.0.1:80/v2",
		"registry:5000":    "https://registry:5000/v2",
		"[2001:db8::1]:80": "https://[2001:db8::1]:80/v2",
	} {
		list := load(t, registry, t.TempDir(), "/does/not/exist")
		if names(list) != want || !list[0].Registry || !list[0].Pull || !list[0].Resolve {
			t.Errorf("%s: %+v", registry, list)
		}
		loopback := registry == "localhost:5000"
		if list[0].FallbackHTTP != loopback || list[0].SkipVerify != loopback {
			t.Errorf("%s: %+v", registry, list[0])
		}
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	own := write(t, dir, "docker.io", `
server = "https://registry-1.docker.io"
ca = "server.pem"

[host."https://z-mirror.example:5000"]
  capabilities = ["pull", "resolve"]
  ca = ["/abs/a.pem", "b.pem"]
  client = [["c.pem", "k.pem"], ["both.pem", ""]]
  skip_verify = true
  dial_timeout = "3s"
  [host."https://z-mirror.example:5000".header]
    x-one = "1"
    x-many = ["1", "2"]

[host."http://a-mirror.example/base/path"]
  capabilities = ["pull"]

[host."https://b.example/v2/prefix"]
  override_path = true
  client = "cert.pem"
`)
	list := load(t, "docker.io", dir)
	want := "https://z-mirror.example:5000/v2 http://a-mirror.example/base/path/v2 https://b.example/v2/prefix https://registry-1.docker.io/v2"
	if names(list) != want {
		t.Fatalf("hosts %s\nwant %s", names(list), want)
	}
	z := list[0]
	if !reflect.DeepEqual(z.CAs, []string{"/abs/a.pem", filepath.Join(own, "b.pem")}) || !z.SkipVerify || z.DialTimeout != 3*time.Second {
		t.Errorf("%+v", z)
	}
	wantPairs := []KeyPair{{Cert: filepath.Join(own, "c.pem"), Key: filepath.Join(own, "k.pem")}, {Cert: filepath.Join(own, "both.pem")}}
	if !reflect.DeepEqual(z.Clients, wantPairs) {
		t.Errorf("client certificates %+v", z.Clients)
	}
	if z.Header.Get("X-One") != "1" || len(z.Header.Values("X-Many")) != 2 {
		t.Errorf("headers %v", z.Header)
	}
	if list[1].Resolve || !list[1].Pull || !reflect.DeepEqual(list[2].Clients, []KeyPair{{Cert: filepath.Join(own, "cert.pem")}}) {
		t.Errorf("%+v", list)
	}
	for i, h := range list {
		if h.Registry != (i == 3) || h.Push != (i == 3) {
			t.Errorf("host %s: registry %v, push %v", h, h.Registry, h.Push)
		}
	}
	if !reflect.DeepEqual(list[3].CAs, []string{filepath.Join(own, "server.pem")}) {
		t.Errorf("server's CA %v", list[3].CAs)
	}
}

func TestSearchOrder(t *testing.T) {
	one, two := t.TempDir(), t.TempDir()
	write(t, one, "reg.example_5000_", `server = "https://one-port"`)
	write(t, two, "reg.example:5000", `server = "https://two"`)
	write(t, two, defaultDir, `[host."https://fallback"]`)
	if got := names(load(t, "reg.example:5000", one, two)); got != "https://one-port/v2" {
		t.Error(got)
	}
	if got := names(load(t, "reg.example:5000", two)); got != "https://two/v2" {
		t.Error(got)
	}
	if got := names(load(t, "other", one, two)); got != "https://fallback/v2 https://other/v2" {
		t.Error(got)
	}
}

func TestDottedKeysKeepOrder(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "r.io", "host.\"https://b\".capabilities = [\"pull\"]\n[host]\n\"https://a\".skip_verify = true\n")
	// A table cannot be opened after dotted keys have made it.
	if _, _, err := Load([]string{dir}, "r.io"); err == nil {
		t.Fatal("accepted")
	}
	write(t, dir, "r.io", "[host]\n\"https://b\".capabilities = [\"pull\"]\n\"https://a\".skip_verify = true\n")
	if got := names(load(t, "r.io", dir)); got != "https://b/v2 https://a/v2 https://r.io/v2" {
		t.Error(got)
	}
}

func TestDockerLayout(t *testing.T) {
	dir := t.TempDir()
	own := filepath.Join(dir, "r.io")
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"ca.crt", "me.cert", "me.key"} {
		if err := os.WriteFile(filepath.Join(own, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h := load(t, "r.io", dir)[0]
	if !reflect.DeepEqual(h.CAs, []string{filepath.Join(own, "ca.crt")}) || len(h.Clients) != 1 || h.Clients[0].Key != filepath.Join(own, "me.key") {
		t.Errorf("%+v", h)
	}
}

func TestBadFiles(t *testing.T) {
	for name, c := range map[string]struct{ content, want string }{
		"syntax":       {"server = \"a\"\nnonsense", "line 2"},
		"type":         {"server = \"https://a\"\n\n[host.\"https://b\"]\nskip_verify = \"yes\"", "line 4"},
		"capability":   {"[host.\"https://b\"]\ncapabilities = [\"fly\"]", `"fly"`},
		"scheme":       {"server = \"ftp://b\"", "neither http nor https"},
		"credentials":  {"[host.\"https://user:pass@b\"]", "want scheme, host and path"},
		"ca type":      {"[host.\"https://b\"]\nca = 7", `"ca"`},
		"client shape": {"[host.\"https://b\"]\nclient = [[\"a\",\"b\",\"c\"]]", "certificate and a key"},
		"header type":  {"[host.\"https://b\".header]\nx = 1", "header.x"},
		"timeout":      {"[host.\"https://b\"]\ndial_timeout = \"soon\"", "dial_timeout"},
	} {
		dir := t.TempDir()
		path := write(t, dir, "r.io", c.content)
		_, _, err := Load([]string{dir}, "r.io")
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.want)
		}
	}
}

func TestUnknownKeysWarn(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "r.io", "server = \"https://s\"\n[host.\"https://b\"]\ncapabilites = [\"pull\"]\nskip_verify = true\n")
	list, warnings, err := Load([]string{dir}, "r.io")
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "line 3") || !strings.Contains(warnings[0], "capabilites") {
		t.Fatal(err, warnings)
	}
	if names(list) != "https://b/v2 https://s/v2" || !list[0].SkipVerify {
		t.Errorf("%+v", list)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("server = \"https://s\"\n[host.\"https://b\"]\nca=[\"x\"]\nclient=[[\"a\",\"b\"]]\n[host.\"https://b\".header]\na=[\"b\"]")
	f.Fuzz(func(t *testing.T, s string) {
		list, _, err := parse([]byte(s), "/dir", "r.io")
		if err == nil && len(list) == 0 {
			t.Fatal("no host and no error")
		}
	})
}
