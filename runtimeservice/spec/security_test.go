package spec

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCapabilities(t *testing.T) {
	sorted := func(list []string) string { l := slices.Clone(list); slices.Sort(l); return strings.Join(l, " ") }
	everything := testHost().Capabilities
	without := func(list []string, names ...string) []string {
		return slices.DeleteFunc(slices.Clone(list), func(c string) bool { return slices.Contains(names, c) })
	}
	tests := []struct {
		name          string
		add, drop     []string
		ambient       []string
		want          []string
		wantAmbient   []string
		wantNoteAbout string
	}{
		{"defaults", nil, nil, nil, DefaultCapabilities(), nil, ""},
		{"add, spelled in any way", []string{"NET_ADMIN", "CAP_SYS_TIME", "sys_ptrace"}, nil, nil,
			append(DefaultCapabilities(), "CAP_NET_ADMIN", "CAP_SYS_TIME", "CAP_SYS_PTRACE"), nil, ""},
		{"drop", nil, []string{"NET_RAW", "MKNOD"}, nil, without(DefaultCapabilities(), "CAP_NET_RAW", "CAP_MKNOD"), nil, ""},
		{"drop all", nil, []string{"ALL"}, nil, nil, nil, ""},
		{"drop all, add one", []string{"NET_BIND_SERVICE"}, []string{"all"}, nil, []string{"CAP_NET_BIND_SERVICE"}, nil, ""},
		{"add all", []string{"ALL"}, nil, nil, everything, nil, ""},
		{"add all, drop one", []string{"ALL"}, []string{"SYS_ADMIN"}, nil, without(everything, "CAP_SYS_ADMIN"), nil, ""},
		{"add and drop the same", []string{"SYS_ADMIN"}, []string{"SYS_ADMIN"}, nil, DefaultCapabilities(), nil, ""},
		{"ambient", nil, []string{"ALL"}, []string{"NET_BIND_SERVICE"}, []string{"CAP_NET_BIND_SERVICE"}, []string{"CAP_NET_BIND_SERVICE"}, ""},
		{"ambient dropped", nil, []string{"NET_RAW"}, []string{"NET_RAW"}, without(DefaultCapabilities(), "CAP_NET_RAW"), nil, ""},
		{"not the daemon's", []string{"SYS_RESOURCE"}, nil, nil, DefaultCapabilities(), nil, "CAP_SYS_RESOURCE"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput(t)
			securityContext(&in).Capabilities = &runtimeapi.Capability{AddCapabilities: tc.add, DropCapabilities: tc.drop, AddAmbientCapabilities: tc.ambient}
			s, r := mustBuild(t, in)
			c := s.Process.Capabilities
			wantEqual(t, "bounding set", sorted(c.Bounding), sorted(tc.want))
			wantEqual(t, "effective set", sorted(c.Effective), sorted(tc.want))
			wantEqual(t, "permitted set", sorted(c.Permitted), sorted(tc.want))
			wantEqual(t, "ambient set", sorted(c.Ambient), sorted(tc.wantAmbient))
			wantEqual(t, "inheritable set", sorted(c.Inheritable), sorted(tc.wantAmbient))
			if notes := strings.Join(r.Notes, "; "); strings.Contains(notes, "capabilit") != (tc.wantNoteAbout != "") || !strings.Contains(notes, tc.wantNoteAbout) {
				t.Errorf("notes are %q", notes)
			}
		})
	}
}

func TestConfiguredCapabilities(t *testing.T) {
	in := testInput(t)
	in.Defaults.Capabilities = []string{}
	s, _ := mustBuild(t, in)
	if len(s.Process.Capabilities.Bounding) != 0 {
		t.Errorf("bounding set is %v", s.Process.Capabilities.Bounding)
	}
	in.Defaults.Capabilities = []string{"CAP_KILL"}
	s, _ = mustBuild(t, in)
	wantEqual(t, "bounding set", s.Process.Capabilities.Bounding, []string{"CAP_KILL"})
}

// allowsSocket tells whether a profile lets a process make a socket of a domain
// by an unconditional rule or by the comparisons of one rule.
func allowsSocket(p *specs.LinuxSeccomp, domain uint64) bool {
	for _, rule := range p.Syscalls {
		if rule.Action != specs.ActAllow || !slices.Contains(rule.Names, "socket") {
			continue
		}
		holds := true
		for _, a := range rule.Args {
			if a.Index != 0 {
				continue
			}
			switch a.Op {
			case specs.OpEqualTo:
				holds = holds && domain == a.Value
			case specs.OpNotEqual:
				holds = holds && domain != a.Value
			case specs.OpLessThan:
				holds = holds && domain < a.Value
			case specs.OpLessEqual:
				holds = holds && domain <= a.Value
			case specs.OpGreaterThan:
				holds = holds && domain > a.Value
			case specs.OpGreaterEqual:
				holds = holds && domain >= a.Value
			}
		}
		if holds {
			return true
		}
	}
	return false
}

func allowsCall(p *specs.LinuxSeccomp, name string) bool {
	return slices.ContainsFunc(p.Syscalls, func(r specs.LinuxSyscall) bool {
		return r.Action == specs.ActAllow && slices.Contains(r.Names, name)
	})
}

func TestSeccompDefault(t *testing.T) {
	in := testInput(t)
	securityContext(&in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	s, _ := mustBuild(t, in)
	p := s.Linux.Seccomp
	if p == nil || p.DefaultAction != specs.ActErrno {
		t.Fatalf("profile is %+v", p)
	}
	if !allowsSocket(p, unix.AF_INET) || !allowsSocket(p, unix.AF_UNIX) || allowsSocket(p, unix.AF_ALG) || allowsSocket(p, unix.AF_VSOCK) {
		t.Error("AF_INET and AF_UNIX should be allowed, AF_ALG and AF_VSOCK not")
	}
	if allowsCall(p, "mount") {
		t.Error("mount is allowed without CAP_SYS_ADMIN")
	}
	again, _ := mustBuild(t, in)
	if again.Linux.Seccomp != p {
		t.Error("the profile is worked out twice for the same capabilities")
	}
	securityContext(&in).Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"SYS_ADMIN"}}
	s, _ = mustBuild(t, in)
	if !allowsCall(s.Linux.Seccomp, "mount") || allowsCall(p, "mount") {
		t.Error("mount should be allowed with CAP_SYS_ADMIN only")
	}
}

func TestSeccompChoice(t *testing.T) {
	file := filepath.Join(t.TempDir(), "profile.json")
	writeFile(t, file, `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO"}]}`)
	const none, standard, local = "none", "default", "local"
	tests := []struct {
		name    string
		profile *runtimeapi.SecurityProfile
		old     string
		unset   SeccompDefault
		want    string
	}{
		{"unset", nil, "", SeccompUnconfined, none},
		{"unset, configured", nil, "", SeccompRuntimeDefault, standard},
		{"default", &runtimeapi.SecurityProfile{}, "", SeccompUnconfined, standard},
		{"unconfined", &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, "", SeccompRuntimeDefault, none},
		{"local", &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: file}, "", "", local},
		{"old default", nil, "runtime/default", "", standard},
		{"old unconfined", nil, "unconfined", SeccompRuntimeDefault, none},
		{"old local", nil, "localhost/" + file, "", local},
		{"new over old", &runtimeapi.SecurityProfile{}, "unconfined", "", standard},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput(t)
			in.Defaults.SeccompUnset = tc.unset
			//lint:ignore SA1019 clients still send it
			securityContext(&in).Seccomp, securityContext(&in).SeccompProfilePath = tc.profile, tc.old
			s, _ := mustBuild(t, in)
			got := none
			if p := s.Linux.Seccomp; p != nil && p.DefaultAction == specs.ActAllow {
				got = local
			} else if p != nil {
				got = standard
			}
			wantEqual(t, "profile", got, tc.want)
		})
	}
}

func TestSeccompFileRefused(t *testing.T) {
	dir := t.TempDir()
	fifo, nonsense, empty := filepath.Join(dir, "fifo"), filepath.Join(dir, "nonsense"), filepath.Join(dir, "empty")
	must(t, unix.Mkfifo(fifo, 0o600))
	writeFile(t, nonsense, "not json")
	writeFile(t, empty, "{}")
	for ref, kind := range map[string]error{
		"relative.json": errdefs.ErrInvalidArgument, dir + "/missing": errdefs.ErrNotFound, dir: errdefs.ErrInvalidArgument,
		fifo: errdefs.ErrInvalidArgument, nonsense: errdefs.ErrInvalidArgument, empty: errdefs.ErrInvalidArgument,
	} {
		in := testInput(t)
		securityContext(&in).Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: ref}
		_, _, err := Build(t.Context(), in)
		wantError(t, err, kind, "config.linux.security_context.seccomp: ")
	}
}

func TestAppArmor(t *testing.T) {
	local := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "mine"}
	unconfined := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	tests := []struct {
		name      string
		node      bool
		standard  string
		profile   *runtimeapi.SecurityProfile
		want      string
		wantError error
	}{
		{"absent, default asked for", false, "std", &runtimeapi.SecurityProfile{}, "", nil},
		{"absent, local", false, "std", local, "", errdefs.ErrFailedPrecondition},
		{"unset", true, "std", nil, "std", nil},
		{"unset, none configured", true, "", nil, "", nil},
		{"default", true, "std", &runtimeapi.SecurityProfile{}, "std", nil},
		{"default, none configured", true, "", &runtimeapi.SecurityProfile{}, "", errdefs.ErrFailedPrecondition},
		{"unconfined", true, "std", unconfined, "", nil},
		{"local", true, "std", local, "mine", nil},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			in := testInput(t)
			in.Host.AppArmor, in.Defaults.AppArmorProfile = tc.node, tc.standard
			securityContext(&in).Apparmor = tc.profile
			s, _, err := Build(t.Context(), in)
			if tc.wantError != nil {
				wantError(t, err, tc.wantError, "config.linux.security_context.apparmor: ")
				return
			}
			must(t, err)
			wantEqual(t, "profile", s.Process.ApparmorProfile, tc.want)
		})
	}
}

// The labels are those that were chosen for the container, whatever the request says.
func TestSELinuxLabels(t *testing.T) {
	const process, file = "system_u:system_r:container_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"
	in := testInput(t)
	securityContext(&in).SelinuxOptions = &runtimeapi.SELinuxOption{Type: "other_t", Level: "s0:c1"}
	s, _ := mustBuild(t, in)
	if s.Process.SelinuxLabel != "" || s.Linux.MountLabel != "" {
		t.Error("a label on a node without SELinux keeps the container from starting")
	}
	in.ProcessLabel, in.FileLabel = process, file
	s, _ = mustBuild(t, in)
	wantEqual(t, "label", s.Process.SelinuxLabel, process)
	wantEqual(t, "label of mounts", s.Linux.MountLabel, file)
	exec, err := ExecProcess(s, []string{"true"}, false)
	must(t, err)
	wantEqual(t, "label of an exec", exec.SelinuxLabel, process)
	securityContext(&in).Privileged = true
	in.Sandbox.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{Privileged: true}}
	s, _ = mustBuild(t, in)
	wantEqual(t, "label of a privileged container", s.Process.SelinuxLabel, "")
	wantEqual(t, "label of its mounts", s.Linux.MountLabel, file)
}
