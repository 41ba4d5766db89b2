package spec

import (
	"bytes"
	"math"
	"strconv"
)

// maxID is the greatest user or group ID: Kubernetes' limit, and one below which
// no conversion can turn an ID into another one.
const maxID = math.MaxInt32

// parseID parses an ID of a passwd or group file.
func parseID(field []byte) (int64, bool) {
	if len(field) == 0 || field[0] < '0' || field[0] > '9' {
		return 0, false
	}
	id, err := strconv.ParseInt(string(field), 10, 64)
	return id, err == nil && id <= maxID
}

// account is a line of /etc/passwd. valid is false where an ID of it is none.
type account struct {
	name     string
	uid, gid int64
	home     string
	valid    bool
}

// findAccount returns the first line of a passwd file for which match is true.
// Lines that are not accounts (comments, NIS inclusions, too few fields) are
// passed over. An account whose uid is malformed has no uid to match by.
func findAccount(passwd []byte, match func(name []byte, uid int64, hasUID bool) bool) (account, bool) {
	for line := range bytes.Lines(passwd) {
		f := fields(line, 7)
		if len(f) < 4 || !isEntryName(f[0]) {
			continue
		}
		uid, uidOK := parseID(f[2])
		if !match(f[0], uid, uidOK) {
			continue
		}
		gid, gidOK := parseID(f[3])
		a := account{name: string(f[0]), uid: uid, gid: gid, valid: uidOK && gidOK}
		if len(f) > 5 {
			a.home = string(f[5])
		}
		return a, true
	}
	return account{}, false
}

// findGroup returns the ID of the first line of a group file with that name;
// valid is false where it is none.
func findGroup(group []byte, name string) (gid int64, valid, found bool) {
	for line := range bytes.Lines(group) {
		f := fields(line, 4)
		if len(f) < 3 || string(f[0]) != name || !isEntryName(f[0]) {
			continue
		}
		gid, valid = parseID(f[2])
		return gid, valid, true
	}
	return 0, false, false
}

// groupsOf calls yield with the ID of every group that lists the user as a
// member. Groups with a malformed ID are passed over: they are the image's
// concern, not this user's.
func groupsOf(group []byte, user string, yield func(gid int64)) {
	for line := range bytes.Lines(group) {
		f := fields(line, 4)
		if len(f) < 4 || !isEntryName(f[0]) {
			continue
		}
		for member := range bytes.SplitSeq(f[3], []byte{','}) {
			if string(bytes.TrimSpace(member)) != user {
				continue
			}
			if gid, ok := parseID(f[2]); ok {
				yield(gid)
			}
			break
		}
	}
}

// fields splits a line at its colons into at most n fields.
func fields(line []byte, n int) [][]byte {
	line = bytes.TrimRight(line, "\r\n")
	if len(line) == 0 || line[0] == '#' {
		return nil
	}
	return bytes.SplitN(line, []byte{':'}, n)
}

// isEntryName tells a name from a NIS inclusion ("+", "-name") or nothing.
func isEntryName(name []byte) bool {
	return len(name) > 0 && name[0] != '+' && name[0] != '-'
}
