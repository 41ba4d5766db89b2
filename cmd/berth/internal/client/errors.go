package client

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Hint returns what a person may do about err, "" when there is nothing to say.
func Hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

type hinted struct {
	err  error
	hint string
}

func (e *hinted) Error() string { return e.err.Error() }
func (e *hinted) Unwrap() error { return e.err }
func (e *hinted) Hint() string  { return e.hint }

// WithHint returns err with advice for Hint.
func WithHint(err error, hint string) error { return &hinted{err: err, hint: hint} }

// rpcError is a call's error without gRPC's "rpc error: code = … desc =".
// status.Code still sees its code.
type rpcError struct {
	status *status.Status
	// answered says that it is the runtime's own error, and not one of reaching it.
	answered bool
}

func (e *rpcError) Error() string {
	if e.status.Message() == "" {
		return e.status.Code().String()
	}
	return e.status.Message()
}

func (e *rpcError) GRPCStatus() *status.Status { return e.status }

// Hint speaks about the codes that say something of berthd itself; what an
// image, pod or container lacks is in the message.
func (e *rpcError) Hint() string {
	switch e.status.Code() {
	case codes.Unavailable:
		if e.answered {
			return ""
		}
		return "the connection to berthd broke: is it still running?"
	case codes.DeadlineExceeded:
		if e.answered {
			return ""
		}
		return "berthd did not answer in time: look at its log, or wait longer with --request-timeout"
	case codes.Unimplemented:
		return "the runtime behind this socket does not offer that: `berth version` says which one it is"
	case codes.PermissionDenied, codes.Unauthenticated:
		return "run berth as root, or for an image give --creds USER:PASSWORD"
	}
	return ""
}

func fromRPC(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if s, ok := status.FromError(err); ok {
		return &rpcError{status: s}
	}
	return err
}

// Code returns the gRPC code of err, which may be wrapped.
func Code(err error) codes.Code {
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus().Code()
	}
	return status.Code(err)
}

// NotFoundError says that nothing answers to what was typed.
type NotFoundError struct {
	Kind string // container, pod or image
	Ref  string
}

func (e *NotFoundError) Error() string { return fmt.Sprintf("no %s %q", e.Kind, e.Ref) }

// Hint names the command that lists what there is.
func (e *NotFoundError) Hint() string {
	switch e.Kind {
	case "pod":
		return "`berth pods` lists all pods"
	case "image":
		return "`berth images` lists all images, `berth pull` fetches one"
	case "container":
		return "`berth ps -a` lists all containers"
	}
	return "`berth ps -a`, `berth pods` and `berth images` list what there is"
}

// AmbiguousError says that several things answer to what was typed.
type AmbiguousError struct {
	Kind       string
	Ref        string
	Candidates []string
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%q may be any of %d %ss:\n  %s", e.Ref, len(e.Candidates), e.Kind, strings.Join(e.Candidates, "\n  "))
}

// Hint says how to tell the candidates apart.
func (e *AmbiguousError) Hint() string {
	if e.Kind == "container" {
		return "give more of the ID, or POD/NAME"
	}
	if e.Kind == "pod" {
		return "give more of the ID, or NAMESPACE/NAME"
	}
	return "give more of the ID"
}
