package cri

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// fieldError says which field of a request is malformed and how. Its kind is
// errdefs.ErrInvalidArgument.
type fieldError struct {
	path    string // as in config.mounts[2].host_path
	problem string
}

func (e *fieldError) Error() string { return e.path + ": " + e.problem }

func (e *fieldError) Unwrap() error { return errdefs.ErrInvalidArgument }

// invalid makes a fieldError.
func invalid(path, format string, args ...any) error {
	return &fieldError{path: path, problem: fmt.Sprintf(format, args...)}
}

// first returns the first error there is. Checks of one message are written as
// its arguments, in the order of the fields.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// field joins the path of a message and a field of it.
func field(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// item is the path of the i-th element of a repeated field.
func item(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// entry is the path of a map's value.
func entry(path, key string) string { return fmt.Sprintf("%s[%q]", path, shorten(key)) }

// each checks every element of a repeated field.
func each[T any](path string, list []T, check func(path string, v T) error) error {
	for i, v := range list {
		if err := check(item(path, i), v); err != nil {
			return err
		}
	}
	return nil
}

// maxQuoted bounds how much of a malformed value an error repeats.
const maxQuoted = 64

func shorten(v string) string {
	if len(v) <= maxQuoted {
		return v
	}
	return v[:maxQuoted] + "…"
}
