package protocol

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/containerd/errdefs"
)

// Error is the body of FrameError: the text, and the kind that errdefs gives it.
type Error struct {
	Kind string `json:"kind,omitempty"`
	Text string `json:"text"`
}

// ErrCommand marks a start or exec that failed because of the command: it does
// not exist in the container or may not be executed. It comes together with
// errdefs.ErrInvalidArgument.
var ErrCommand = errors.New("container cannot run the command")

var kinds = []struct {
	name string
	err  error
}{
	{"not found", errdefs.ErrNotFound},
	{"invalid argument", errdefs.ErrInvalidArgument},
	{"already exists", errdefs.ErrAlreadyExists},
	{"failed precondition", errdefs.ErrFailedPrecondition},
	{"unavailable", errdefs.ErrUnavailable},
	{"permission denied", errdefs.ErrPermissionDenied},
	{"not implemented", errdefs.ErrNotImplemented},
	{kindExhausted, errdefs.ErrResourceExhausted},
	{"canceled", context.Canceled},
	{"deadline exceeded", context.DeadlineExceeded},
}

const (
	kindCommand   = "command"
	kindExhausted = "resource exhausted"
)

// exhausted are errors of the operating system that say that something is used up:
// their numbers do not cross the connection.
var exhausted = []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM}

// EncodeError makes the body of a FrameError.
func EncodeError(err error) Error {
	e := Error{Text: err.Error()}
	if errors.Is(err, ErrCommand) {
		e.Kind = kindCommand
		return e
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			e.Kind = k.name
			return e
		}
	}
	for _, number := range exhausted {
		if errors.Is(err, number) {
			e.Kind = kindExhausted
			return e
		}
	}
	return e
}

// remoteError keeps the text as the monitor wrote it and answers errors.Is for
// its kind.
type remoteError struct {
	text  string
	kinds []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.kinds }

// Err makes an error of it again. A kind that is not known has none.
func (e Error) Err() error {
	if e.Kind == kindCommand {
		return &remoteError{text: e.Text, kinds: []error{ErrCommand, errdefs.ErrInvalidArgument}}
	}
	for _, k := range kinds {
		if k.name == e.Kind {
			return &remoteError{text: e.Text, kinds: []error{k.err}}
		}
	}
	return fmt.Errorf("%s", e.Text)
}
