package spec

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func int64Value(v int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: v} }

func TestUser(t *testing.T) {
	type ctx = runtimeapi.LinuxContainerSecurityContext
	const strict = runtimeapi.SupplementalGroupsPolicy_Strict
	tests := []struct {
		name  string
		image string
		sc    *ctx
		want  string // uid:gid groups home
	}{
		{"nothing is root", "", &ctx{}, "0:0 [0 10] /root"},
		{"image name", "app", &ctx{}, "1000:1001 [1001 10 50000] /home/app"},
		{"image ID", "1000", &ctx{}, "1000:1001 [1001 10 50000] /home/app"},
		{"image unknown ID", "777", &ctx{}, "777:0 [0] /"},
		{"image user and group", "app:wheel", &ctx{}, "1000:10 [10 50000] /home/app"},
		{"image IDs", "777:888", &ctx{}, "777:888 [888] /"},
		{"image group only", ":888", &ctx{}, "0:888 [888 0 10] /root"},
		{"image user, no group", "app:", &ctx{}, "1000:1001 [1001 10 50000] /home/app"},
		{"no home", "nohome", &ctx{}, "1002:1002 [1002] /"},
		{"control character in home", "evil", &ctx{}, "1004:1004 [1004] /"},
		{"request ID over image", "bin", &ctx{RunAsUser: int64Value(1000)}, "1000:1001 [1001 10 50000] /home/app"},
		{"request 0 over image", "app", &ctx{RunAsUser: int64Value(0)}, "0:0 [0 10] /root"},
		{"request ID drops the image's group", "app:wheel", &ctx{RunAsUser: int64Value(1000)}, "1000:1001 [1001 10 50000] /home/app"},
		{"request name", "", &ctx{RunAsUsername: "app"}, "1000:1001 [1001 10 50000] /home/app"},
		{"request name is a known ID", "", &ctx{RunAsUsername: "1000"}, "1000:1001 [1001 10 50000] /home/app"},
		{"group", "", &ctx{RunAsUser: int64Value(1000), RunAsGroup: int64Value(3000)}, "1000:3000 [3000 10 50000] /home/app"},
		{"group with name", "", &ctx{RunAsUsername: "app", RunAsGroup: int64Value(0)}, "1000:0 [0 10 50000] /home/app"},
		{"merge", "", &ctx{RunAsUser: int64Value(1000), RunAsGroup: int64Value(3000), SupplementalGroups: []int64{4000, 10, 3000}}, "1000:3000 [3000 4000 10 50000] /home/app"},
		{"strict", "", &ctx{RunAsUser: int64Value(1000), SupplementalGroups: []int64{4000}, SupplementalGroupsPolicy: strict}, "1000:1001 [1001 4000] /home/app"},
		{"strict without any", "app", &ctx{SupplementalGroupsPolicy: strict}, "1000:1001 [1001] /home/app"},
		{"numeric name of an account is an ID", "1234", &ctx{}, "1234:0 [0] /"},
		{"greatest ID", "2147483647:2147483647", &ctx{}, "2147483647:2147483647 [2147483647] /"},
	}
	root := testRootfs(t)
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			id, err := resolveUser(root, tc.sc, tc.image)
			if err != nil {
				t.Fatal(err)
			}
			wantEqual(t, "identity", fmt.Sprintf("%d:%d %v %s", id.uid, id.gid, id.groups, id.home), tc.want)
			cri, oci := id.cri().Linux, id.oci()
			if cri.Uid != int64(oci.UID) || cri.Gid != int64(oci.GID) || len(cri.SupplementalGroups) != len(oci.AdditionalGids) {
				t.Errorf("status %v is not what runs, %v", cri, oci)
			}
		})
	}
}

func TestUserRefused(t *testing.T) {
	type ctx = runtimeapi.LinuxContainerSecurityContext
	const sc = "config.linux.security_context."
	tests := []struct {
		image string
		sc    *ctx
		field string
	}{
		{"", &ctx{RunAsGroup: int64Value(5)}, sc + "run_as_group: a group without"},
		{"app", &ctx{RunAsGroup: int64Value(5)}, sc + "run_as_group: a group without"},
		{"", &ctx{RunAsUser: int64Value(1), RunAsUsername: "app"}, sc + "run_as_username"},
		{"", &ctx{RunAsUser: int64Value(-1)}, sc + "run_as_user"},
		{"", &ctx{RunAsUser: int64Value(1 << 31)}, sc + "run_as_user"},
		{"", &ctx{RunAsUser: int64Value(1 << 32)}, sc + "run_as_user"},
		{"", &ctx{RunAsUser: int64Value(1), RunAsGroup: int64Value(-1)}, sc + "run_as_group"},
		{"", &ctx{RunAsUser: int64Value(1), RunAsGroup: int64Value(1 << 32)}, sc + "run_as_group"},
		{"", &ctx{RunAsUsername: "nobody-here"}, sc + `run_as_username: user "nobody-here" is not in`},
		{"", &ctx{RunAsUsername: "777"}, sc + `run_as_username: user "777" is not in`},
		{"", &ctx{RunAsUsername: "4294967296"}, sc + "run_as_username"},
		{"", &ctx{RunAsUsername: "-1"}, sc + "run_as_username"},
		{"", &ctx{RunAsUsername: "root:x"}, sc + "run_as_username"},
		{"", &ctx{RunAsUsername: "app\nroot"}, sc + "run_as_username"},
		{"", &ctx{RunAsUsername: "mangled"}, sc + `run_as_username: user "mangled" has a malformed`},
		{"", &ctx{RunAsUsername: "huge"}, sc + `run_as_username: user "huge" has a malformed`},
		{"", &ctx{RunAsUsername: "biggid"}, sc + `run_as_username: user "biggid" has a malformed`},
		{"", &ctx{RunAsUser: int64Value(1003)}, sc + `run_as_user: user "1003" has a malformed`},
		{"", &ctx{SupplementalGroups: []int64{1, -5}}, sc + "supplemental_groups[1]"},
		{"", &ctx{SupplementalGroups: []int64{1 << 32}}, sc + "supplemental_groups[0]"},
		{"", &ctx{SupplementalGroupsPolicy: 9}, sc + "supplemental_groups_policy"},
		{"nobody-here", &ctx{}, `image user: user "nobody-here" is not in`},
		{"app:nogroup", &ctx{}, `image user: group "nogroup" is not in`},
		{"app:bad", &ctx{}, `image user: group "bad" has a malformed`},
		{"app:hugegroup", &ctx{}, `image user: group "hugegroup" has a malformed`},
		{"2147483648", &ctx{}, "image user"},
		{"4294967296", &ctx{}, "image user"},
		{"99999999999999999999", &ctx{}, "image user"},
		{"-1", &ctx{}, "image user"},
		{"+1000", &ctx{}, "image user"},
		{"-0", &ctx{}, "image user"},
		{"+nis", &ctx{}, "image user"},
		{"app:-1", &ctx{}, "image user"},
		{"app:4294967296", &ctx{}, "image user"},
		{"app:a:b", &ctx{}, "image user"},
		{" app", &ctx{}, "image user"},
		{"../etc", &ctx{}, "image user"},
	}
	root := testRootfs(t)
	for _, tc := range tests {
		_, err := resolveUser(root, tc.sc, tc.image)
		if err == nil {
			t.Errorf("user %q %v is accepted", tc.image, tc.sc)
			continue
		}
		wantError(t, err, errdefs.ErrInvalidArgument, tc.field)
	}
}

// TestHostilePasswd: the image decides what its files are; none of it may block,
// fill memory or reach the node.
func TestHostilePasswd(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "passwd")
	writeFile(t, secret, "app:x:0:0::/:/bin/sh\n")
	tests := []struct {
		name string
		make func(t *testing.T, passwd string)
		want string // error; "" if the user is found as 1000
	}{
		{"FIFO", func(t *testing.T, p string) { must(t, unix.Mkfifo(p, 0o644)) }, "not a regular file"},
		{"directory", func(t *testing.T, p string) { must(t, os.Mkdir(p, 0o755)) }, "not a regular file"},
		{"socket", func(t *testing.T, p string) { must(t, unix.Mknod(p, unix.S_IFSOCK|0o644, 0)) }, "not a regular file"},
		{"too big", func(t *testing.T, p string) {
			writeFile(t, p, testPasswd)
			must(t, os.Truncate(p, maxRootFile+1))
		}, "more than"},
		{"link to the node", func(t *testing.T, p string) { must(t, os.Symlink(secret, p)) }, "is not in the image"},
		{"relative link to the node", func(t *testing.T, p string) {
			must(t, os.Symlink(strings.Repeat("../", 40)+secret, p))
		}, "is not in the image"},
		{"magic link", func(t *testing.T, p string) { must(t, os.Symlink("/proc/self/root"+secret, p)) }, "is not in the image"},
		{"link to itself", func(t *testing.T, p string) { must(t, os.Symlink("passwd", p)) }, "too many levels"},
		{"link inside the image", func(t *testing.T, p string) {
			writeFile(t, p+".real", testPasswd)
			must(t, os.Symlink("/etc/passwd.real", p))
		}, ""},
		{"missing", func(*testing.T, string) {}, "is not in the image"},
		{"one endless line", func(t *testing.T, p string) { writeFile(t, p, strings.Repeat("a", 5<<20)) }, "is not in the image"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			must(t, os.Mkdir(filepath.Join(root, "etc"), 0o755))
			tc.make(t, filepath.Join(root, "etc/passwd"))
			id, err := resolveUser(root, &runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "app"}, "")
			if tc.want == "" {
				if err != nil || id.uid != 1000 {
					t.Errorf("user is %v, %v", id, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) || !errdefs.IsInvalidArgument(err) {
				t.Errorf("error is %v, want %q", err, tc.want)
			}
		})
	}
}

func TestEtcIsALink(t *testing.T) {
	outside := testRootfs(t)
	root := t.TempDir()
	must(t, os.Symlink(filepath.Join(outside, "etc"), filepath.Join(root, "etc")))
	if _, err := readRootFile(root, "/etc/passwd"); !os.IsNotExist(unwrapAll(err)) {
		t.Errorf("read through a link out of the root: %v", err)
	}
}

func TestTooManyGroups(t *testing.T) {
	root := testRootfs(t)
	var b strings.Builder
	for i := range maxGroups + 1 {
		fmt.Fprintf(&b, "g%d:x:%d:app\n", i, i)
	}
	writeFile(t, filepath.Join(root, "etc/group"), b.String())
	_, err := resolveUser(root, nil, "app")
	wantError(t, err, errdefs.ErrInvalidArgument, "config.linux.security_context.supplemental_groups")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func unwrapAll(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return err
		}
		if err = u.Unwrap(); err == nil {
			return nil
		}
	}
}

// FuzzImageUser: whatever an image says, an ID is in range and only a user of
// the passwd file or a plain number gets one.
func FuzzImageUser(f *testing.F) {
	for _, s := range []string{"", "app", "app:wheel", "0", "1000:1000", "-1", "4294967296", "root", "1234", "+5", ":", "a:b:c", "\x00"} {
		f.Add(s)
	}
	root := testRootfs(f)
	f.Fuzz(func(t *testing.T, s string) {
		id, err := resolveUser(root, nil, s)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if id.uid < 0 || id.uid > maxID || id.gid < 0 || id.gid > maxID {
			t.Errorf("%q is %d:%d", s, id.uid, id.gid)
		}
		user, _, _ := strings.Cut(s, ":")
		rootNames := strings.Trim(user, "0") == "" || user == "root"
		if id.uid == 0 && !rootNames {
			t.Errorf("%q is root", s)
		}
		if len(id.groups) == 0 || id.groups[0] != id.gid {
			t.Errorf("%q: primary group %d is not among %v", s, id.gid, id.groups)
		}
	})
}
