package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// checkpointEnv is an env whose monitor finds the CRIU.
type checkpointEnv struct {
	*env
	criu *fakeCRIU
}

func newCheckpointEnv(t *testing.T, criu *fakeCRIU) *checkpointEnv {
	t.Helper()
	e := &env{t: t, dir: filepath.Join(t.TempDir(), "state"), exits: map[string][]Exit{}, told: make(chan struct{}, 1000)}
	t.Cleanup(e.end)
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ready, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	cmd := exec.Command(binary, "serve", e.dir, group+"/monitor")
	cmd.Env, cmd.ExtraFiles = []string{"PATH=" + criu.dir}, []*os.File{end}
	err = cmd.Run()
	end.Close()
	var text [2]byte
	if _, readErr := ready.Read(text[:]); err != nil || readErr != nil || string(text[:]) != "ok" {
		t.Fatalf("start monitor: %v, %v, %q", err, readErr, text)
	}
	e.connect()
	return &checkpointEnv{e, criu}
}

// counting starts a container that counts on its output.
func (e *checkpointEnv) counting() string {
	return e.start("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done", func(r *StartRequest) {
		if r.Runtime != nil {
			r.Runtime.Path = e.criu.wrap(r.Runtime.Path)
		}
	}).ID
}

func (e *checkpointEnv) frozen(id string) bool {
	e.t.Helper()
	for file, thawed := range map[string]string{
		filepath.Join("/sys/fs/cgroup/freezer", group, id, "freezer.state"): "THAWED",
		filepath.Join("/sys/fs/cgroup", group, id, "cgroup.freeze"):         "0",
	} {
		if data, err := os.ReadFile(file); err == nil {
			return strings.TrimSpace(string(data)) != thawed
		}
	}
	e.t.Fatal("the container has no freezer")
	return false
}

// goesOn fails unless containers are not frozen, or come to be so, and their output grows.
func (e *checkpointEnv) goesOn(ids ...string) {
	e.t.Helper()
	for _, id := range ids {
		log := filepath.Join(filepath.Dir(e.dir), id+".log")
		before := len(logText(e.t, log))
		eventually(e.t, func() error {
			if e.frozen(id) {
				return fmt.Errorf("container %s is frozen", id)
			}
			if len(logText(e.t, log)) <= before {
				return fmt.Errorf("container %s does not go on", id)
			}
			return nil
		})
	}
}

func (e *checkpointEnv) freeze(longest time.Duration, ids ...string) {
	e.t.Helper()
	if err := e.client.FreezeToDump(e.ctx(), ids, longest); err != nil {
		e.t.Fatal(err)
	}
	for _, id := range ids {
		if !e.frozen(id) {
			e.t.Errorf("container %s is not frozen", id)
		}
	}
}

func wantKind(t *testing.T, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: error %v, want %v", what, err, kind)
	}
}

func TestFrozenUntilAllAreDumped(t *testing.T) {
	e := newCheckpointEnv(t, newFakeCRIU(t))
	a, b := e.counting(), e.counting()
	e.freeze(time.Minute, a, b)
	for _, id := range []string{a, b} {
		images := t.TempDir()
		if err := e.client.Dump(e.ctx(), id, images, CRIUOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(images, "inventory.img")); err != nil {
			t.Error(err)
		}
		if !e.frozen(a) || !e.frozen(b) {
			t.Errorf("after the dump of %s: frozen are %v, %v", id, e.frozen(a), e.frozen(b))
		}
	}
	if err := e.client.Thaw(e.ctx(), []string{a, b}); err != nil {
		t.Error(err)
	}
	e.goesOn(a, b)
	wantKind(t, "dump of one that goes on", e.client.Dump(e.ctx(), a, t.TempDir(), CRIUOptions{}), errdefs.ErrFailedPrecondition)
	wantKind(t, "thaw of what goes on", e.client.Thaw(e.ctx(), []string{a}), errdefs.ErrFailedPrecondition)
}

// Whatever ends a checkpoint, both containers go on: the one that CRIU is at work on, and
// the other.
func TestNothingStaysFrozen(t *testing.T) {
	const long = time.Minute
	for name, test := range map[string]struct {
		mode    string
		longest time.Duration
		// cut ends what is under way; nil if it ends by itself, and then thaws.
		cut  func(e *checkpointEnv, ids ...string)
		want error
	}{
		"the dump fails":                     {mode: fails, longest: long, want: errdefs.ErrFailedPrecondition},
		"CRIU dies":                          {mode: dies, longest: long, want: errdefs.ErrFailedPrecondition},
		"the time is over":                   {mode: hangs, longest: 8 * time.Second, cut: func(*checkpointEnv, ...string) {}, want: context.DeadlineExceeded},
		"the time is over, CRIU would end":   {mode: lingers, longest: 8 * time.Second, cut: func(*checkpointEnv, ...string) {}, want: context.DeadlineExceeded},
		"the client does not want it":        {mode: hangs, longest: long, cut: (*checkpointEnv).thaw, want: context.Canceled},
		"the client is gone":                 {mode: hangs, longest: long, cut: func(e *checkpointEnv, _ ...string) { e.disconnect(); e.connect() }},
		"the monitor is killed":              {mode: hangs, longest: long, cut: func(e *checkpointEnv, _ ...string) { e.killMonitor() }},
		"the monitor is killed, CRIU ends":   {mode: lingers, longest: long, cut: func(e *checkpointEnv, _ ...string) { e.killMonitor() }},
		"both are killed":                    {mode: lingers, longest: long, cut: func(e *checkpointEnv, _ ...string) { pid := e.pid(); e.disconnect(); killMonitor(pid); e.connect() }},
		"the container is removed meanwhile": {mode: hangs, longest: long, cut: (*checkpointEnv).remove},
	} {
		t.Run(name, func(t *testing.T) {
			criu := newFakeCRIU(t)
			criu.set(test.mode)
			e := newCheckpointEnv(t, criu)
			a, b := e.counting(), e.counting()
			e.freeze(test.longest, a, b)
			done := make(chan error, 1)
			client := e.client
			go func() { done <- client.Dump(context.Background(), a, t.TempDir(), CRIUOptions{}) }()
			if test.cut != nil {
				eventually(t, func() error {
					_, err := os.Stat(filepath.Join(criu.dir, test.mode))
					return err
				})
				test.cut(e, a, b)
			}
			err := <-done
			if err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("dump: error %v, want %v", err, test.want)
			}
			if test.cut == nil {
				e.thaw(a, b)
			}
			criu.write("go", "")
			criu.waitGone()
			all, err := e.client.List(e.ctx())
			if err != nil || len(all) == 0 {
				t.Errorf("containers %s, %v", dump(all), err)
			}
			for _, c := range all {
				e.goesOn(c.ID)
			}
		})
	}
}

// A process that is started in a container while that stands still would, half-way in, keep
// the dump waiting, and that the process: for ever.
func TestProcessesAreNotStartedInWhatIsFrozen(t *testing.T) {
	e := newCheckpointEnv(t, newFakeCRIU(t))
	id := e.counting()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if out, _, exit := e.exec(id, "", "echo", "done"); out != "done\n" || exit.Code != 0 {
				t.Errorf("exec: %q, %s", out, dump(exit))
			}
		}
	}()
	for range 10 {
		e.freeze(time.Minute, id)
		if err := e.client.Dump(e.ctx(), id, t.TempDir(), CRIUOptions{}); err != nil {
			t.Error(err)
		}
		e.thaw(id)
	}
	close(stop)
	<-ended
	e.goesOn(id)
}

// A client that leaves while containers are being frozen, at whatever point.
func TestFreezeForAClientThatLeaves(t *testing.T) {
	e := newCheckpointEnv(t, newFakeCRIU(t))
	ids := []string{e.counting(), e.counting(), e.counting()}
	e.freeze(time.Minute, ids...) // CRIU is known to work from now on
	e.thaw(ids...)
	for i := range 20 {
		client, done := e.client, make(chan struct{})
		go func() {
			defer close(done)
			_ = client.FreezeToDump(context.Background(), ids, time.Minute)
		}()
		time.Sleep(time.Duration(i) * 100 * time.Microsecond)
		e.disconnect()
		<-done
		e.connect()
		e.goesOn(ids...)
	}
}

func TestFreezeOfAllOrNone(t *testing.T) {
	e := newCheckpointEnv(t, newFakeCRIU(t))
	a, b := e.counting(), e.counting()
	ended := e.start("exit 0").ID
	e.waitExit(ended)
	e.freeze(time.Minute, b)
	for name, test := range map[string]struct {
		other string
		want  error
	}{
		"one that has ended":     {ended, errdefs.ErrNotFound},
		"one that there is not":  {"none", errdefs.ErrNotFound},
		"one that is frozen":     {b, errdefs.ErrFailedPrecondition},
		"the same one once more": {a, errdefs.ErrFailedPrecondition},
	} {
		wantKind(t, name, e.client.FreezeToDump(e.ctx(), []string{a, test.other}, time.Minute), test.want)
		e.goesOn(a)
		if !e.frozen(b) {
			t.Errorf("%s: another client's container goes on", name)
		}
	}
	e.thaw(b)
	e.goesOn(b)
}

func TestFreezeWithoutAUsableCRIU(t *testing.T) {
	for name, test := range map[string]struct{ mode, says string }{
		"there is none":    {"", "not installed"},
		"it is too old":    {tooOld, "too old"},
		"not on this node": {useless, "not on this kernel"},
	} {
		t.Run(name, func(t *testing.T) {
			criu := newFakeCRIU(t)
			criu.set(test.mode)
			if test.mode == "" {
				criu.dir = t.TempDir()
			}
			e := newCheckpointEnv(t, criu)
			id := e.counting()
			err := e.client.FreezeToDump(e.ctx(), []string{id}, time.Minute)
			wantKind(t, "freeze", err, errdefs.ErrFailedPrecondition)
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v", err)
			}
			e.goesOn(id)
		})
	}
}

// What CRIU cannot restore as it is asked for is refused before it is tried.
func TestRestoreOfWhatCannotBe(t *testing.T) {
	e := newCheckpointEnv(t, newFakeCRIU(t))
	for says, change := range map[string]func(*StartRequest){
		"no_new_privs": func(*StartRequest) {}, // as all have it here
		"cgroup namespace": func(r *StartRequest) {
			r.Spec.Process.NoNewPrivileges = false
			r.Spec.Linux.Namespaces = append(r.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
			r.Spec.Mounts = append(r.Spec.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup"})
		},
	} {
		r := e.request("", change)
		r.Restore = &Restore{Images: t.TempDir(), Work: t.TempDir()}
		_, err := e.client.Start(e.ctx(), r)
		wantKind(t, says, err, errdefs.ErrFailedPrecondition)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want one of %q", err, says)
		}
		e.checkNothingLeft(r.ID)
	}
}

func (e *checkpointEnv) thaw(ids ...string) {
	e.t.Helper()
	if err := e.client.Thaw(e.ctx(), ids); err != nil {
		e.t.Error(err)
	}
}

// remove removes the first container.
func (e *checkpointEnv) remove(ids ...string) {
	e.t.Helper()
	if err := e.client.Delete(e.ctx(), ids[0]); err != nil {
		e.t.Error(err)
	}
}
