package credentials

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/berth-cri/berth/imageservice/reference"
)

func write(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func find(t *testing.T, path, image string) (*authn.AuthConfig, error) {
	t.Helper()
	ref, err := reference.Parse(image)
	if err != nil {
		t.Fatal(err)
	}
	return Find(context.Background(), path, ref)
}

const example = `{
  "auths": {
    "https://index.docker.io/v1/": {"auth": "aHViOmh1YnBhc3M="},
    "registry.example": {"username": "all", "password": "p"},
    "registry.example/team": {"username": "team", "password": "p:q"},
    "http://plain.example:5000/v2/": {"identitytoken": "it"},
    "token.example": {"registrytoken": "rt"},
    "helped.example": {}
  },
  "credsStore": "",
  "HttpHeaders": {"X": "y"}
}`

func TestEntries(t *testing.T) {
	path := write(t, example)
	for image, want := range map[string]authn.AuthConfig{
		"busybox":                       {Username: "hub", Password: "hubpass"},
		"docker.io/team/app":            {Username: "hub", Password: "hubpass"},
		"registry.example/app":          {Username: "all", Password: "p"},
		"registry.example/teams/app":    {Username: "all", Password: "p"},
		"registry.example/team/app:1":   {Username: "team", Password: "p:q"},
		"plain.example:5000/app":        {IdentityToken: "it"},
		"registry-1.docker.io/team/app": {Username: "hub", Password: "hubpass"},
		"token.example/app":             {RegistryToken: "rt"},
		"helped.example/app":            {},
		"plain.example/app":             {},
		"registry.example.attacker/app": {},
		"other.example/app":             {},
	} {
		got, err := find(t, path, image)
		if err != nil || (got == nil) != (want == authn.AuthConfig{}) || got != nil && *got != want {
			t.Errorf("%s: %+v, %v", image, got, err)
		}
	}
}

// What is in a broken file must not get into the error.
func TestBrokenFiles(t *testing.T) {
	for what, content := range map[string]string{
		"not JSON":       `{"auths": {"registry.example": {"password": "hunter2"`,
		"wrong type":     `{"auths": {"registry.example": "hunter2"}}`,
		"not base64":     `{"auths": {"registry.example": {"auth": "hunter2!"}}}`,
		"no colon":       `{"auths": {"registry.example": {"auth": "aHVudGVyMg=="}}}`,
		"too long":       `{"x": "hunter2` + strings.Repeat(" ", maxFileSize) + `"}`,
		"helper is path": `{"credHelpers": {"registry.example": "../../bin/sh"}}`,
		"no helper":      `{"credsStore": "does-not-exist"}`,
	} {
		got, err := find(t, write(t, content), "registry.example/app")
		if err == nil || got != nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	if _, err := find(t, filepath.Join(t.TempDir(), "none"), "a/b"); err == nil {
		t.Error("a file that is not there was read")
	}
}

// helper installs a credential helper.
func helper(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, helperPrefix+name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestHelpers(t *testing.T) {
	helper(t, "one", `read server; echo "{\"ServerURL\":\"$server\",\"Username\":\"one\",\"Secret\":\"for $server\"}"`)
	helper(t, "token", `echo '{"Username":"<token>","Secret":"it"}'`)
	helper(t, "empty", `echo "credentials not found in native keychain"; exit 1`)
	helper(t, "broken", `echo "hunter2"; echo "hunter2" >&2; exit 3`)
	helper(t, "confused", `echo hunter2`)
	helper(t, "loud", `yes hunter2`)
	for _, test := range []struct {
		config, image string
		want          *authn.AuthConfig
		fails         bool
	}{
		{`{"credsStore": "one"}`, "registry.example/app", &authn.AuthConfig{Username: "one", Password: "for registry.example"}, false},
		{`{"credsStore": "one"}`, "busybox", &authn.AuthConfig{Username: "one", Password: "for https://index.docker.io/v1/"}, false},
		{`{"credsStore": "one", "credHelpers": {"registry.example": "token"}}`, "registry.example/app", &authn.AuthConfig{IdentityToken: "it"}, false},
		{`{"credHelpers": {"registry.example": "token"}}`, "other.example/app", nil, false},
		{`{"credsStore": "empty"}`, "registry.example/app", nil, false},
		{`{"credsStore": "broken"}`, "registry.example/app", nil, true},
		{`{"credsStore": "confused"}`, "registry.example/app", nil, true},
		{`{"credsStore": "loud"}`, "registry.example/app", nil, true},
	} {
		got, err := find(t, write(t, test.config), test.image)
		if (err != nil) != test.fails || (got == nil) != (test.want == nil) || got != nil && *got != *test.want {
			t.Errorf("%s for %s: %+v, %v", test.config, test.image, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error repeats what the helper said: %v", err)
		}
	}
}

// A helper that hangs is ended, with what it has started.
func TestHelperHangs(t *testing.T) {
	helper(t, "hangs", `sleep 1000 & sleep 1000`)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	ref, _ := reference.Parse("registry.example/app")
	if _, err := Find(ctx, write(t, `{"credsStore": "hangs"}`), ref); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Error(err)
	}
}

func FuzzFind(f *testing.F) {
	f.Add(example, "registry.example/team/app")
	f.Add(`{"auths": {"://": {"auth": "Og=="}}}`, "a/b")
	f.Fuzz(func(t *testing.T, content, image string) {
		ref, err := reference.Parse(image)
		if err != nil || strings.Contains(content, "cred") {
			return // helpers are not run here
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, _ = Find(ctx, write(t, content), ref)
	})
}
