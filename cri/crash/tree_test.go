package crash

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// tree is what a layer holds, by path.
type tree map[string]node

// node is one file of a layer, as far as an archive says what it must be.
type node struct {
	kind     string // as unix.S_IFMT would have it
	mode     uint32
	uid, gid int
	content  string // the sum of a file's, the target of a link
	attr     string // user.n
	opaque   bool
	mtime    int64 // 0: not said
}

// treeOfArchive is what unpacking must make of an archive of this package's.
func treeOfArchive(archive []byte) tree {
	t := tree{".": {kind: "dir", mode: 0o755}}
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return t
		}
		body, rerr := io.ReadAll(r)
		if err = errors.Join(err, rerr); err != nil {
			panic(err) // it was made here
		}
		t.add(h, body)
	}
}

func (t tree) add(h *tar.Header, body []byte) {
	name := path.Clean(h.Name)
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := t[dir]; !ok {
			t[dir] = node{kind: "dir", mode: 0o755}
		}
	}
	n := node{mode: uint32(h.Mode), uid: h.Uid, gid: h.Gid, attr: h.PAXRecords["SCHILY.xattr.user.n"], mtime: h.ModTime.UnixNano()}
	dir, base := path.Split(name)
	switch {
	case base == ".wh..wh..opq":
		parent := t[path.Clean(dir)]
		parent.opaque = true
		t[path.Clean(dir)] = parent
		return
	case strings.HasPrefix(base, ".wh."):
		t[dir+strings.TrimPrefix(base, ".wh.")] = node{kind: "whiteout"}
		return
	case h.Typeflag == tar.TypeLink:
		t[name] = t[path.Clean(h.Linkname)]
		return
	case h.Typeflag == tar.TypeDir:
		n.kind = "dir"
	case h.Typeflag == tar.TypeSymlink:
		n.kind, n.content, n.mode = "link", h.Linkname, 0o777
	default:
		n.kind, n.content = "file", fmt.Sprintf("%x", sha256.Sum256(body))
	}
	t[name] = n
}

// treeOfDir is what a directory holds.
func treeOfDir(dir string) (tree, error) {
	t, sums := tree{}, map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		t[name], err = nodeAt(p, sums)
		return err
	})
	return t, err
}

// nodeAt looks at one file; sums has those of the inodes that were read.
func nodeAt(p string, sums map[uint64]string) (node, error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return node{}, &os.PathError{Op: "lstat", Path: p, Err: err}
	}
	n := node{mode: st.Mode & 0o7777, uid: int(st.Uid), gid: int(st.Gid), mtime: st.Mtim.Nano(), attr: xattr(p, "user.n")}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		n.kind, n.opaque = "dir", xattr(p, "trusted.overlay.opaque") == "y"
	case unix.S_IFLNK:
		target, err := os.Readlink(p)
		n.kind, n.content = "link", target
		return n, err
	case unix.S_IFCHR:
		if st.Rdev == 0 {
			return node{kind: "whiteout"}, nil
		}
		n.kind = "device"
	case unix.S_IFREG:
		n.kind = "file"
		if _, ok := sums[st.Ino]; !ok {
			body, err := os.ReadFile(p)
			if err != nil {
				return n, err
			}
			sums[st.Ino] = fmt.Sprintf("%x", sha256.Sum256(body))
		}
		n.content = sums[st.Ino]
	}
	return n, nil
}

func xattr(p, name string) string {
	buf := make([]byte, 256)
	n, err := unix.Lgetxattr(p, name, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// differences lists what of got is not as t says, up to a few.
func (t tree) differences(got tree) []string {
	var found []string
	for name, want := range t {
		n, ok := got[name]
		if !ok {
			found = append(found, name+" is missing")
			continue
		}
		if want.mtime == 0 {
			n.mtime = 0
		}
		if n != want {
			found = append(found, fmt.Sprintf("%s is %+v, want %+v", name, n, want))
		}
	}
	for name := range got {
		if _, ok := t[name]; !ok {
			found = append(found, name+" does not belong there")
		}
	}
	sort.Strings(found)
	return found[:min(len(found), 5)]
}
