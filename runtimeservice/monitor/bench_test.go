package monitor

import (
	"os"
	"testing"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultSeccomp is the profile that pods get by default.
func defaultSeccomp(t testing.TB, spec *specs.Spec) *specs.LinuxSeccomp {
	t.Helper()
	profile, err := seccomp.GetDefaultProfile(spec)
	if err != nil {
		t.Fatal(err)
	}
	return profile
}

func benchmarkStart(b *testing.B, edit func(*StartRequest)) {
	e := newEnv(b)
	r := e.request("exec sleep 1000", edit)
	for b.Loop() {
		if _, err := e.client.Start(e.ctx(), r); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := e.client.Delete(e.ctx(), r.ID); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

func BenchmarkStart(b *testing.B) { benchmarkStart(b, func(*StartRequest) {}) }

func BenchmarkStartSeccomp(b *testing.B) {
	benchmarkStart(b, func(r *StartRequest) { r.Spec.Linux.Seccomp = defaultSeccomp(b, r.Spec) })
}

func BenchmarkDelete(b *testing.B) {
	e := newEnv(b)
	r := e.request("exec sleep 1000")
	for b.Loop() {
		b.StopTimer()
		if _, err := e.client.Start(e.ctx(), r); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := e.client.Delete(e.ctx(), r.ID); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmarkExec(b *testing.B, edit func(*StartRequest)) {
	e := newEnv(b)
	r := e.start("exec sleep 1000", edit)
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer null.Close()
	for b.Loop() {
		x, err := e.client.Exec(e.ctx(), ExecRequest{ContainerID: r.ID, Process: e.process("true"), Stdout: null})
		if err != nil {
			b.Fatal(err)
		}
		if exit, err := x.Wait(e.ctx()); err != nil || exit.Code != 0 {
			b.Fatal(dump(exit), err)
		}
	}
}

func BenchmarkExec(b *testing.B) { benchmarkExec(b, func(*StartRequest) {}) }

func BenchmarkExecSeccomp(b *testing.B) {
	benchmarkExec(b, func(r *StartRequest) { r.Spec.Linux.Seccomp = defaultSeccomp(b, r.Spec) })
}
