package runtimeservice

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/podfiles"
)

func userNamespaceOf(hostUID, hostGID uint32) *runtimeapi.UserNamespace {
	return &runtimeapi.UserNamespace{
		Mode: runtimeapi.NamespaceMode_POD,
		Uids: []*runtimeapi.IDMapping{{HostId: hostUID, Length: 65536}},
		Gids: []*runtimeapi.IDMapping{{HostId: hostGID, Length: 65536}},
	}
}

func TestValidateUserNamespace(t *testing.T) {
	const pod = runtimeapi.NamespaceMode_POD
	one := func(container, host, length uint32) []*runtimeapi.IDMapping {
		return []*runtimeapi.IDMapping{{ContainerId: container, HostId: host, Length: length}}
	}
	good := one(0, 1000, 65536)
	for name, c := range map[string]struct {
		options *runtimeapi.UserNamespace
		says    string // "" for no error
	}{
		"nothing":              {nil, ""},
		"the node's":           {&runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE}, ""},
		"the pod's":            {&runtimeapi.UserNamespace{Mode: pod, Uids: good, Gids: good}, ""},
		"users unlike groups":  {&runtimeapi.UserNamespace{Mode: pod, Uids: good, Gids: one(0, 70000, 10)}, ""},
		"to the last ID":       {&runtimeapi.UserNamespace{Mode: pod, Uids: one(0, 1<<31, 1<<31-1), Gids: good}, ""},
		"the container's":      {&runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_CONTAINER, Uids: good, Gids: good}, "mode: CONTAINER"},
		"a target's":           {&runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_TARGET}, "mode: TARGET"},
		"unknown":              {&runtimeapi.UserNamespace{Mode: 17}, "mode: 17"},
		"no mapping":           {&runtimeapi.UserNamespace{}, "uids: 0 mappings"},
		"no group mapping":     {&runtimeapi.UserNamespace{Uids: good}, "gids: 0 mappings"},
		"two mappings":         {&runtimeapi.UserNamespace{Uids: append(one(0, 1, 1), good...), Gids: good}, "uids: 2 mappings"},
		"root is not mapped":   {&runtimeapi.UserNamespace{Uids: one(1, 1000, 65536), Gids: good}, "uids[0].container_id"},
		"nobody is mapped":     {&runtimeapi.UserNamespace{Uids: good, Gids: one(0, 1000, 0)}, "gids[0].length"},
		"beyond the last ID":   {&runtimeapi.UserNamespace{Uids: one(0, 1<<31, 1<<31), Gids: good}, "uids[0].length"},
		"mappings of the node": {&runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE, Uids: good}, "NODE"},
	} {
		t.Run(name, func(t *testing.T) {
			err := validateUserNamespace("f", c.options)
			if c.says == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), "f") || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error is %v, want one with %q", err, c.says)
			}
		})
	}
}

// passableDir is a directory that everybody may pass; those of t.TempDir are not.
func passableDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "berth-passable-")
	if err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		err = os.Chmod(dir, 0o711)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestPodWithAUserNamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test gives files away and needs root")
	}
	n := newNode(t)
	n.state = passableDir(t)
	s, _ := n.start()
	config := podConfig("web")
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userNamespaceOf(200000, 300000)
	pod, err := s.RunPodSandbox(t.Context(), config, "")
	if err != nil {
		t.Fatal(err)
	}
	if n.namespaces.last.User == nil || n.namespaces.last.User.UIDs[0].HostID != 200000 {
		t.Errorf("the user namespace asked for is %v", n.namespaces.last.User)
	}
	owner := podfiles.Owner{UID: 200000, GID: 300000}
	if n.mounts.owner != owner {
		t.Errorf("/dev/shm belongs to %v", n.mounts.owner)
	}
	files := podfiles.In(s.sandboxDir(pod))
	for _, file := range []string{files.ResolvConf, files.Hostname} {
		st, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if sys := st.Sys().(*syscall.Stat_t); sys.Uid != owner.UID || sys.Gid != owner.GID {
			t.Errorf("%s belongs to %d:%d", file, sys.Uid, sys.Gid)
		}
	}
	id, err := s.CreateContainer(t.Context(), pod, containerConfig("c"), config)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(s.sandboxDir(pod), "user"); n.rootfs.userns != want {
		t.Errorf("the root file system is of the user namespace %q, want %q", n.rootfs.userns, want)
	}
	st, err := os.Stat(filepath.Dir(s.rootfsDir(id)))
	if err != nil {
		t.Fatal(err)
	}
	if sys := st.Sys().(*syscall.Stat_t); st.Mode().Perm() != 0o710 || sys.Uid != 0 || sys.Gid != owner.GID {
		t.Errorf("the directory of the container has mode %v and belongs to %d:%d", st.Mode(), sys.Uid, sys.Gid)
	}
	if err := s.RemovePodSandbox(t.Context(), pod); err != nil {
		t.Error(err)
	}
	n.assertEmpty()
}

func TestNodeWithoutUserNamespaces(t *testing.T) {
	n := newNode(t)
	n.state = passableDir(t)
	n.rootfs.noUserNamespaces = errors.New("an old kernel")
	s, _ := n.start()
	config := podConfig("web")
	config.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userNamespaceOf(200000, 200000)
	_, err := s.RunPodSandbox(t.Context(), config, "")
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "an old kernel") {
		t.Errorf("error is %v", err)
	}
	n.assertEmpty()
	resp, err := s.RuntimeStatus(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	if resp.RuntimeHandlers[0].Features.UserNamespaces || !strings.Contains(resp.Info["runtime"], "an old kernel") {
		t.Errorf("the status is %v", resp)
	}
}

func TestPassable(t *testing.T) {
	open := passableDir(t)
	closed := filepath.Join(open, "closed")
	inside := filepath.Join(closed, "inside")
	if err := errors.Join(os.Mkdir(closed, 0o700), os.Mkdir(inside, 0o711)); err != nil {
		t.Fatal(err)
	}
	if err := passable(inside); err == nil || !strings.Contains(err.Error(), `"`+closed+`"`) {
		t.Errorf("a closed directory: %v", err)
	}
	if err := passable(open); err != nil {
		t.Error(err)
	}
}
