package checkpoint

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Copy writes the checkpoint in a directory, which can be anybody's, into an empty one.
// Like Unpack it takes only regular files and directories; it follows no link, and reads
// nothing else.
func Copy(ctx context.Context, from, to string) error {
	source, err := os.OpenRoot(from)
	if err != nil {
		return fmt.Errorf("copy checkpoint: %w", err)
	}
	defer source.Close()
	root, err := os.OpenRoot(to)
	if err != nil {
		return fmt.Errorf("copy checkpoint: %w", err)
	}
	defer root.Close()
	c := copier{source: source, w: writer{ctx: ctx, root: root}}
	if err := c.dir("."); err != nil {
		return fmt.Errorf("copy checkpoint: %w", err)
	}
	return nil
}

type copier struct {
	source *os.Root
	w      writer
}

func (c *copier) dir(name string) error {
	f, err := c.source.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	// One more than there may be: it is refused when it is counted.
	entries, err := f.ReadDir(maxEntries + 1)
	f.Close()
	if err != nil && err != io.EOF { // that of an empty directory
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(name, entry.Name())
		switch {
		case entry.IsDir():
			if err := c.w.dir(path); err != nil {
				return err
			}
			err = c.dir(path)
		case entry.Type().IsRegular():
			err = c.file(path)
		default:
			err = refused(path, "it is neither a file nor a directory")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// file copies what is a regular file also when it is opened.
func (c *copier) file(path string) error {
	f, err := c.source.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return refused(path, "it is neither a file nor a directory")
	}
	// As much as it says, however it grows.
	c.w.left = info.Size()
	return c.w.file(path, f)
}
