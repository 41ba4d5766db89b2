package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// packDirectory writes the files of a directory, as an OCI layout is one, as a tar archive.
// Links that lead out of it are refused.
func packDirectory(dir string, w io.Writer) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	out := tar.NewWriter(w)
	err = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return packFile(root, name, out)
	})
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		return fmt.Errorf("read directory %s: %w", dir, err)
	}
	return nil
}

func packFile(root *os.Root, name string, out *tar.Writer) error {
	// What a link leads to may be a pipe, which has no end.
	st, err := root.Stat(name)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file", name)
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: st.Size(), Mode: 0o644}); err != nil {
		return err
	}
	if _, err := io.CopyN(out, f, st.Size()); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// unpackDirectory makes a directory of a tar archive of files and directories.
func unpackDirectory(r io.Reader, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("write directory %s: %w", dir, err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.Mkdir(path.Clean(h.Name), 0o755)
		case tar.TypeReg:
			err = unpackFile(root, h.Name, in)
		default:
			err = fmt.Errorf("%s is of type %q", h.Name, h.Typeflag)
		}
		if err != nil {
			return fmt.Errorf("write directory %s: %w", dir, err)
		}
	}
}

func unpackFile(root *os.Root, name string, r io.Reader) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
