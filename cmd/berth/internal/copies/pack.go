// Package copies packs files of this machine as an archive for a container, and unpacks those
// that a container, which may be hostile, has sent.
package copies

import (
	"archive/tar"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Pack writes a file or directory, which is called top in the archive; "" is for what is in a
// directory. What is neither file, directory nor link is left out and told to skipped.
func Pack(w io.Writer, path, top string, skipped func(name string)) error {
	out := tar.NewWriter(w)
	err := filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(path, name)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() && !info.IsDir() && info.Mode().Type() != fs.ModeSymlink {
			skipped(name)
			return nil
		}
		return packOne(out, name, filepath.Join(top, below), info)
	})
	if err != nil {
		return err
	}
	return out.Close()
}

func packOne(out *tar.Writer, path, as string, info fs.FileInfo) error {
	target := ""
	if info.Mode().Type() == fs.ModeSymlink {
		var err error
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	hdr, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	hdr.Name, hdr.Format, hdr.Uname, hdr.Gname = filepath.ToSlash(as), tar.FormatPAX, "", ""
	if info.IsDir() {
		hdr.Name += "/"
	}
	if !info.Mode().IsRegular() {
		return out.WriteHeader(hdr)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := out.WriteHeader(hdr); err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(f, hdr.Size))
	if err == nil && n != hdr.Size {
		err = fmt.Errorf("%s got shorter while it was read", path)
	}
	return err
}

// Name is the last name of a path, "" if the path says that what is in the directory is meant.
func Name(path string) string {
	base := path[strings.LastIndexByte(path, '/')+1:]
	if base == "" || base == "." || base == ".." {
		return ""
	}
	return base
}
