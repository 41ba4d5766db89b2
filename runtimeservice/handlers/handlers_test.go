package handlers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// writeProgram makes a program of a shell script, in a file that is renamed into place.
func writeProgram(t *testing.T, path, script string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// answering is a script that knows the features command.
func answering(version, features string) string {
	return fmt.Sprintf(`case "$*" in
--version) echo "rt version %s"; echo more ;;
features) cat <<END
%s
END
;;
"exec --help") echo "   --cgroup value  run the process in a sub-cgroup" ;;
*) exit 1 ;;
esac`, version, features)
}

const whole = `{"ociVersionMin": "1.0.0", "ociVersionMax": "1.2.1", "mountOptions": ["ro", "rro"],
"linux": {"namespaces": ["user", "net"], "mountExtensions": {"idmap": {"enabled": true}}}}`

func TestFeatures(t *testing.T) {
	for _, test := range []struct {
		name, script string
		want         Features
		fails        string
	}{
		{name: "whole", script: answering("1", whole),
			want: Features{Version: "rt version 1", OCIVersion: "1.2.1", RecursiveReadOnlyMounts: true, UserNamespaces: true, ExecCgroup: true}},
		{name: "newer", script: answering("2", `{"ociVersionMin": "1.0.0", "ociVersionMax": "1.9.0-dev"}`),
			want: Features{Version: "rt version 2", OCIVersion: specs.Version, ExecCgroup: true}},
		{name: "no user namespaces", script: answering("3", `{"ociVersionMax": "1.0.3", "linux": {"mountExtensions": {"idmap": {"enabled": true}}}}`),
			want: Features{Version: "rt version 3", OCIVersion: "1.0.3", ExecCgroup: true}},
		{name: "without the command", script: `[ "$1" = --version ] && echo crun version 1.8 || exit 1`,
			want: Features{Version: "crun version 1.8", OCIVersion: "1.0.2"}},
		{name: "known without the command", script: `[ "$1" = --version ] && echo crun version 1.8.1 || exit 1`,
			want: Features{Version: "crun version 1.8.1", OCIVersion: "1.0.2", RecursiveReadOnlyMounts: true, UserNamespaces: true}},
		{name: "with another answer", script: `echo usage`, want: Features{Version: "usage", OCIVersion: "1.0.2"}},
		{name: "from the future", script: answering("9", `{"ociVersionMin": "7.0.0", "ociVersionMax": "7.1.0"}`), fails: "takes specifications from version 7.0.0 on"},
		{name: "nonsense", script: answering("9", `{"ociVersionMax": "new"}`), fails: `"new" is not a version`},
		{name: "broken", script: `exit 3`, fails: "exit status 3"},
		{name: "flood", script: `head -c 2000000 /dev/zero`, fails: "writes more than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "rt")
			writeProgram(t, path, test.script)
			got, err := readFeatures(t.Context(), path, nil)
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("error is %v", err)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("got %+v, %v\nwant %+v", got, err, test.want)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	s := New(Options{Settings: map[string]Settings{"runc": {Path: "/bin/runc"}}})
	for asked, want := range map[string]string{"": Builtin, "berth": Builtin, "runc": "runc"} {
		if got, err := s.Resolve(asked); got != want || err != nil {
			t.Errorf("%q is %q, %v", asked, got, err)
		}
	}
	_, err := s.Resolve("kata")
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), `no handler "kata" is configured; there are "berth", "runc", and "" for berth`) {
		t.Errorf("error is %v", err)
	}
	s.Reload("runc", map[string]Settings{"runc": {Path: "/bin/runc"}})
	if got, err := s.Resolve(""); got != "runc" || err != nil {
		t.Errorf("the default is %q, %v", got, err)
	}
}

func TestFind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rt")
	writeProgram(t, path, answering("1", whole))
	s := New(Options{
		Builtin:  Features{OCIVersion: "1.3.0", UserNamespaces: true},
		Settings: map[string]Settings{"rt": {Path: path, Annotations: []string{"a"}}, "gone": {Path: path + "-gone"}, "small": {MinMemory: 5}},
	})
	h, err := s.Find(t.Context(), "rt")
	if err != nil || !h.External() || h.Version != "rt version 1" || h.Annotations[0] != "a" || !h.UserNamespaces || h.RecursiveReadOnlyMounts {
		t.Errorf("got %+v, %v", h, err)
	}
	if h, err = s.Find(t.Context(), "small"); err != nil || h.External() || !h.UserNamespaces || h.MinMemory != 5 {
		t.Errorf("got %+v, %v", h, err)
	}
	if _, err = s.Find(t.Context(), "gone"); !errdefs.IsFailedPrecondition(err) || !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path+"-gone") {
		t.Errorf("error is %v", err)
	}
	if _, err = s.Find(t.Context(), "never"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("error is %v", err)
	}
	// A program that has changed is asked again; one that has come is used.
	writeProgram(t, path, answering("2", `{"ociVersionMax": "1.0.9"}`))
	writeProgram(t, path+"-gone", answering("3", whole))
	if h, err = s.Find(t.Context(), "rt"); err != nil || h.Version != "rt version 2" || h.OCIVersion != "1.0.9" || h.UserNamespaces {
		t.Errorf("got %+v, %v", h, err)
	}
	if h, err = s.Find(t.Context(), "gone"); err != nil || h.Version != "rt version 3" {
		t.Errorf("got %+v, %v", h, err)
	}
}

// A program is run once for a file, and again when that is asked for.
func TestLookAgain(t *testing.T) {
	dir := t.TempDir()
	path, count := filepath.Join(dir, "rt"), filepath.Join(dir, "count")
	writeProgram(t, path, `[ "$1" = --version ] && echo x >> `+count+"\n"+answering("1", whole))
	s := New(Options{Settings: map[string]Settings{"a": {Path: path}, "b": {Path: path}}})
	runs := func() int {
		t.Helper()
		for _, name := range []string{"a", "b", "a"} {
			if _, err := s.Find(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		data, err := os.ReadFile(count)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(data), "x")
	}
	if n := runs(); n != 1 {
		t.Errorf("run %d times", n)
	}
	s.LookAgain()
	if n := runs(); n != 2 {
		t.Errorf("run %d times after LookAgain", n)
	}
}

// Neither List nor another handler waits for a program that hangs.
func TestAProgramThatHangs(t *testing.T) {
	dir := t.TempDir()
	hung, good := filepath.Join(dir, "hung"), filepath.Join(dir, "good")
	writeProgram(t, hung, "echo $$ > "+dir+"/pid; exec sleep 1000")
	writeProgram(t, good, answering("1", whole))
	t.Cleanup(func() { kill(t, filepath.Join(dir, "pid")) })
	s := New(Options{Settings: map[string]Settings{"hung": {Path: hung}, "good": {Path: good}}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if h, err := s.Find(t.Context(), "good"); err != nil || h.Version != "rt version 1" {
		t.Errorf("got %+v, %v", h, err)
	}
	list := s.List()
	var names []string
	for _, h := range list {
		names = append(names, h.Name)
	}
	if strings.Join(names, " ") != " berth good hung" {
		t.Errorf("handlers are %q", names)
	}
	if h := list[len(list)-1]; !errors.Is(h.Err, errLooking) {
		t.Errorf("the one that hangs: %+v", h)
	}
	short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if _, err := s.Find(short, "hung"); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("error is %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// kill ends the process whose ID a file has, or is about to have.
func kill(t *testing.T, file string) {
	t.Helper()
	for range 6000 {
		data, _ := os.ReadFile(file)
		if pid, err := strconv.Atoi(strings.TrimSpace(string(data))); err == nil {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Error(err)
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%s has no process", file)
}
