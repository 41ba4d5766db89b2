package copies

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Unpack writes an archive to a path: in it, if it is a directory, else as it. top is the name
// of the one thing that the archive has, "" for what is in a directory. Nothing is written
// outside of the directory, whatever names and links the archive has. Files take the place of
// what has their name. Owners are kept for root alone, and set-ID bits never: what a container
// made must not be run with others' rights. Devices and pipes are left out and told to skipped.
func Unpack(r io.Reader, to, top string, skipped func(name string)) error {
	dir, as := to, top
	info, err := os.Stat(to)
	switch {
	case err == nil && info.IsDir():
	case top == "" && errors.Is(err, fs.ErrNotExist):
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
	case top == "" || strings.HasSuffix(to, "/"):
		return fmt.Errorf("%s is not a directory", to)
	default:
		dir, as = filepath.Dir(to), filepath.Base(to)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	u := &unpacking{root: root, top: top, as: as, skipped: skipped}
	in := tar.NewReader(r)
	for {
		hdr, err := in.Next()
		if err == io.EOF {
			return u.finish()
		}
		if err == nil {
			err = u.entry(hdr, in)
		}
		if err != nil {
			return err
		}
	}
}

type unpacking struct {
	root    *os.Root
	top, as string
	skipped func(string)
	dirs    []*tar.Header // made here, with their names below root
}

// name is that of an entry below the root.
func (u *unpacking) name(entry string) (string, error) {
	clean := path.Clean(strings.TrimLeft(entry, "/"))
	first, rest, _ := strings.Cut(clean, "/")
	if u.top != "" {
		if first != u.top {
			return "", fmt.Errorf("the archive has %q, which was not asked for", entry)
		}
		clean = path.Join(u.as, rest)
	}
	if !filepath.IsLocal(clean) {
		return "", fmt.Errorf("the archive has %q, which leads out of the directory", entry)
	}
	return clean, nil
}

func (u *unpacking) entry(hdr *tar.Header, r io.Reader) error {
	name, err := u.name(hdr.Name)
	if err != nil {
		return err
	}
	if name == "." {
		return nil // the directory is the caller's
	}
	if hdr.Typeflag != tar.TypeDir {
		// What is a directory stays, and is an error below.
		if info, err := u.root.Lstat(name); err == nil && !info.IsDir() {
			if err := u.root.Remove(name); err != nil {
				return err
			}
		}
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return u.directory(name, hdr)
	case tar.TypeReg:
		return u.file(name, hdr, r)
	case tar.TypeSymlink:
		if err := u.root.Symlink(hdr.Linkname, name); err != nil {
			return err
		}
		return u.own(func() error { return u.root.Lchown(name, hdr.Uid, hdr.Gid) })
	case tar.TypeLink:
		old, err := u.name(hdr.Linkname)
		if err != nil {
			return err
		}
		return u.root.Link(old, name)
	}
	u.skipped(name)
	return nil
}

// own gives a file to its owner, if this is root.
func (u *unpacking) own(chown func() error) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return chown()
}

func (u *unpacking) directory(name string, hdr *tar.Header) error {
	err := u.root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		info, err := u.root.Stat(name)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is not a directory", name)
		}
		return err
	}
	if err != nil {
		return err
	}
	made := *hdr
	made.Name = name
	u.dirs = append(u.dirs, &made)
	return u.own(func() error { return u.root.Lchown(name, hdr.Uid, hdr.Gid) })
}

func (u *unpacking) file(name string, hdr *tar.Header, r io.Reader) error {
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	err = errors.Join(err, u.own(func() error { return f.Chown(hdr.Uid, hdr.Gid) }), f.Chmod(permissions(hdr)), f.Close())
	if err != nil {
		return err
	}
	return u.root.Chtimes(name, hdr.ModTime, hdr.ModTime)
}

func permissions(hdr *tar.Header) fs.FileMode {
	return hdr.FileInfo().Mode() & (fs.ModePerm | fs.ModeSticky)
}

// finish gives directories their modes and times, when all is in them.
func (u *unpacking) finish() error {
	for _, hdr := range slices.Backward(u.dirs) {
		if info, err := u.root.Lstat(hdr.Name); err != nil || !info.IsDir() {
			continue // the archive has put something else there
		}
		if err := errors.Join(u.root.Chmod(hdr.Name, permissions(hdr)), u.root.Chtimes(hdr.Name, hdr.ModTime, hdr.ModTime)); err != nil {
			return err
		}
	}
	return nil
}
