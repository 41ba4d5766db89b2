package rootcopy

import (
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/imageservice/idmap"
	"github.com/berth-cri/berth/imageservice/layer"
)

// Out writes what is at a path below root as an archive, under its own name, "." for the root
// and for a path that ends with a slash or a dot. A link is itself. Devices and pipes are
// entries, and never opened; sockets, and all that is in file systems of the kernel, are left
// out.
func Out(ctx context.Context, root *os.File, name string, w io.Writer, ids idmap.Map) error {
	parent, base, err := split(name)
	if err != nil {
		return err
	}
	dir, err := openDir(root, parent, unix.O_PATH)
	if err != nil {
		return err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return kinded("open", name, err)
	}
	refused := ofKernel(fd)
	unix.Close(fd)
	if refused {
		return fmt.Errorf("read %q: %w", name, errOfKernel)
	}
	return layer.PackEntry(ctx, dir, base, base, w, layer.PackOptions{IDs: ids, Refuse: ofKernel})
}
