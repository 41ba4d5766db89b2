package spec

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// invalid is an InvalidArgument that begins with the path of the request's field
// at fault, as in "config.mounts[2].host_path".
func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// precondition is for what is wrong with the node or the pod, not the request.
func precondition(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrFailedPrecondition)
}

// missing is for something that a request names and that does not exist.
func missing(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrNotFound)
}

// hasNUL reports whether the kernel would see s cut short.
func hasNUL(s string) bool { return strings.IndexByte(s, 0) >= 0 }

// hasControl reports whether s holds a control character, which in a file of
// lines starts or hides a line.
func hasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029 })
}
