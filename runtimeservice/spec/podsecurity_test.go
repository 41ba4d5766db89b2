package spec

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCheckPodSeccomp(t *testing.T) {
	const local = runtimeapi.SecurityProfile_Localhost
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.json"), filepath.Join(dir, "bad.json")
	for name, text := range map[string]string{good: `{"defaultAction": "SCMP_ACT_ALLOW"}`, bad: `{"defaultAction":`} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	profile := func(kind runtimeapi.SecurityProfile_ProfileType, ref string) *runtimeapi.LinuxSandboxSecurityContext {
		return &runtimeapi.LinuxSandboxSecurityContext{Seccomp: &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}}
	}
	old := func(path string) *runtimeapi.LinuxSandboxSecurityContext {
		//lint:ignore SA1019 clients still send it
		return &runtimeapi.LinuxSandboxSecurityContext{SeccompProfilePath: path}
	}
	for name, c := range map[string]struct {
		sc    *runtimeapi.LinuxSandboxSecurityContext
		kind  error
		field string
	}{
		"nothing":                  {nil, nil, ""},
		"the default":              {profile(runtimeapi.SecurityProfile_RuntimeDefault, ""), nil, ""},
		"unconfined":               {profile(runtimeapi.SecurityProfile_Unconfined, ""), nil, ""},
		"a file":                   {profile(local, good), nil, ""},
		"a file, by older means":   {old("localhost/" + good), nil, ""},
		"a missing file":           {profile(local, filepath.Join(dir, "none")), errdefs.ErrNotFound, "seccomp"},
		"no file":                  {profile(local, ""), errdefs.ErrInvalidArgument, "seccomp.localhost_ref"},
		"a directory":              {profile(local, dir), errdefs.ErrInvalidArgument, "seccomp"},
		"nonsense":                 {profile(local, bad), errdefs.ErrInvalidArgument, "seccomp"},
		"a relative path":          {profile(local, "good.json"), errdefs.ErrInvalidArgument, "seccomp"},
		"an unknown kind":          {profile(9, ""), errdefs.ErrInvalidArgument, "seccomp.profile_type"},
		"missing, by older means":  {old("localhost/" + dir + "/none"), errdefs.ErrNotFound, "seccomp_profile_path"},
		"nonsense, by older means": {old("none"), errdefs.ErrInvalidArgument, "seccomp_profile_path"},
	} {
		t.Run(name, func(t *testing.T) {
			err := CheckPodSeccomp(t.Context(), nil, &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: c.sc}})
			if c.kind == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantError(t, err, c.kind, podSecurityField+"."+c.field+": ")
		})
	}
}
