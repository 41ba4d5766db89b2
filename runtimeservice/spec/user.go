package spec

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const securityContextField = "config.linux.security_context"

// maxGroups is the kernel's NGROUPS_MAX.
const maxGroups = 65536

// identity is who the container's first process is.
type identity struct {
	uid, gid int64
	// groups are the supplemental ones, the primary one among them: without it a
	// file that denies its group could be opened by a member.
	groups []int64
	home   string
}

func (id *identity) oci() specs.User {
	u := specs.User{UID: uint32(id.uid), GID: uint32(id.gid)}
	for _, g := range id.groups {
		u.AdditionalGids = append(u.AdditionalGids, uint32(g))
	}
	return u
}

func (id *identity) cri() *runtimeapi.ContainerUser {
	return &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{
		Uid: id.uid, Gid: id.gid, SupplementalGroups: append([]int64(nil), id.groups...),
	}}
}

// wantedUser is whom a request or an image asks for, before it is looked up.
type wantedUser struct {
	field string // where it was asked for, for errors
	name  string // "" if by ID
	uid   int64
	// mustExist is set for run_as_username: by the CRI text it has to be in the
	// image's /etc/passwd.
	mustExist bool
	group     *wantedGroup // nil: the account's own
}

type wantedGroup struct {
	field string
	name  string // "" if by ID
	gid   int64
}

// resolveUser finds the IDs of the container's first process: the request's
// user, else the image's, else root, looked up in the image's /etc/passwd and
// /etc/group.
//
// As with other runtimes an image's "user:group" counts only if the request
// names no user: a kubelet that took the user from the image passes it on
// without the group.
func resolveUser(rootfs string, sc *runtimeapi.LinuxContainerSecurityContext, imageUser string) (*identity, error) {
	want, err := chooseUser(sc, imageUser)
	if err != nil {
		return nil, err
	}
	policy := sc.GetSupplementalGroupsPolicy()
	if _, known := runtimeapi.SupplementalGroupsPolicy_name[int32(policy)]; !known {
		return nil, invalid(securityContextField+".supplemental_groups_policy", "unknown policy %d", policy)
	}
	passwd, err := readOptional(rootfs, "/etc/passwd", want.field)
	if err != nil {
		return nil, err
	}
	acct, found, err := lookUpAccount(passwd, want)
	if err != nil {
		return nil, err
	}
	id := &identity{uid: acct.uid, gid: acct.gid, home: acct.home}
	var group []byte
	byMembership := found && policy == runtimeapi.SupplementalGroupsPolicy_Merge
	if byMembership || (want.group != nil && want.group.name != "") {
		if group, err = readOptional(rootfs, "/etc/group", want.field); err != nil {
			return nil, err
		}
	}
	if want.group != nil {
		if id.gid, err = lookUpGroup(group, want.group); err != nil {
			return nil, err
		}
	}
	member := acct.name
	if !byMembership {
		member = ""
	}
	return id, id.collectGroups(sc.GetSupplementalGroups(), group, member)
}

// chooseUser picks the user to look up.
func chooseUser(sc *runtimeapi.LinuxContainerSecurityContext, imageUser string) (wantedUser, error) {
	uid, name, gid := sc.GetRunAsUser(), sc.GetRunAsUsername(), sc.GetRunAsGroup()
	var group *wantedGroup
	if gid != nil {
		const field = securityContextField + ".run_as_group"
		if uid == nil && name == "" {
			return wantedUser{}, invalid(field, "a group without run_as_user or run_as_username")
		}
		if gid.GetValue() < 0 || gid.GetValue() > maxID {
			return wantedUser{}, invalid(field, "%d is not between 0 and %d", gid.GetValue(), maxID)
		}
		group = &wantedGroup{field: field, gid: gid.GetValue()}
	}
	switch {
	case uid != nil && name != "":
		return wantedUser{}, invalid(securityContextField+".run_as_username", "%q beside run_as_user %d: only one may be given", name, uid.GetValue())
	case uid != nil:
		const field = securityContextField + ".run_as_user"
		if uid.GetValue() < 0 || uid.GetValue() > maxID {
			return wantedUser{}, invalid(field, "%d is not between 0 and %d", uid.GetValue(), maxID)
		}
		return wantedUser{field: field, uid: uid.GetValue(), group: group}, nil
	case name != "":
		const field = securityContextField + ".run_as_username"
		want := wantedUser{field: field, mustExist: true, group: group}
		err := parsePrincipal(field, name, &want.name, &want.uid)
		return want, err
	}
	return parseImageUser(imageUser)
}

// parseImageUser parses an image's USER: "", "user", "user:group", each a name
// or an ID.
func parseImageUser(s string) (wantedUser, error) {
	const field = "image user"
	want := wantedUser{field: field}
	if s == "" {
		return want, nil
	}
	user, group, hasGroup := strings.Cut(s, ":")
	if user != "" {
		if err := parsePrincipal(field, user, &want.name, &want.uid); err != nil {
			return want, err
		}
	}
	if hasGroup && group != "" {
		want.group = &wantedGroup{field: field}
		if err := parsePrincipal(field, group, &want.group.name, &want.group.gid); err != nil {
			return want, err
		}
	}
	return want, nil
}

// parsePrincipal parses a name or an ID. Whatever reads as a number is an ID and
// never looked up as a name: an image could name an account "1000" or
// "4294967296" and give it uid 0.
func parsePrincipal(field, s string, name *string, id *int64) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		if err != nil || n < 0 || n > maxID || s[0] == '+' || s[0] == '-' {
			return invalid(field, "%q is not an ID between 0 and %d", s, maxID)
		}
		*id = n
		return nil
	}
	if strings.ContainsAny(s, ":,/") || hasControl(s) || !isEntryName([]byte(s)) || strings.TrimSpace(s) != s {
		return invalid(field, "%q is not a user or group name", s)
	}
	*name = s
	return nil
}

// readOptional reads a file of the image that need not be there.
func readOptional(rootfs, name, field string) ([]byte, error) {
	data, err := readRootFile(rootfs, name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return data, nil
	}
	return nil, invalid(field, "look up in the image: %v", err)
}

// lookUpAccount finds the account of want. A user asked for by ID need not have
// one: then its group is 0, its home "/".
func lookUpAccount(passwd []byte, want wantedUser) (account, bool, error) {
	acct, found := findAccount(passwd, func(name []byte, uid int64, hasUID bool) bool {
		if want.name != "" {
			return string(name) == want.name
		}
		return hasUID && uid == want.uid
	})
	shown := want.name
	if shown == "" {
		shown = strconv.FormatInt(want.uid, 10)
	}
	switch {
	case found && !acct.valid:
		return acct, true, invalid(want.field, "user %q has a malformed uid or gid in the image's /etc/passwd", shown)
	case !found && (want.name != "" || want.mustExist):
		return acct, false, invalid(want.field, "user %q is not in the image's /etc/passwd", shown)
	case !found:
		acct = account{uid: want.uid}
	}
	if acct.home == "" || hasControl(acct.home) {
		acct.home = "/"
	}
	return acct, found, nil
}

func lookUpGroup(group []byte, want *wantedGroup) (int64, error) {
	if want.name == "" {
		return want.gid, nil
	}
	gid, valid, found := findGroup(group, want.name)
	if !found {
		return 0, invalid(want.field, "group %q is not in the image's /etc/group", want.name)
	}
	if !valid {
		return 0, invalid(want.field, "group %q has a malformed gid in the image's /etc/group", want.name)
	}
	return gid, nil
}

// collectGroups sets the supplemental groups: the primary one, the request's,
// and those that list member in the image's group file, each once. member ""
// adds none of the image's.
func (id *identity) collectGroups(requested []int64, group []byte, member string) error {
	seen := map[int64]bool{}
	add := func(gid int64) {
		if !seen[gid] {
			seen[gid] = true
			id.groups = append(id.groups, gid)
		}
	}
	add(id.gid)
	for i, gid := range requested {
		if gid < 0 || gid > maxID {
			return invalid(securityContextField+".supplemental_groups["+strconv.Itoa(i)+"]", "%d is not between 0 and %d", gid, maxID)
		}
		add(gid)
	}
	if member != "" {
		groupsOf(group, member, add)
	}
	if len(id.groups) > maxGroups {
		return invalid(securityContextField+".supplemental_groups", "%d groups with those of the image, more than %d", len(id.groups), maxGroups)
	}
	return nil
}
