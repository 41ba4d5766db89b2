package cri

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// kinds maps the kinds of errors that the services use to gRPC codes.
var kinds = map[error]codes.Code{
	errdefs.ErrInvalidArgument:    codes.InvalidArgument,
	errdefs.ErrNotFound:           codes.NotFound,
	errdefs.ErrAlreadyExists:      codes.AlreadyExists,
	errdefs.ErrPermissionDenied:   codes.PermissionDenied,
	errdefs.ErrResourceExhausted:  codes.ResourceExhausted,
	errdefs.ErrFailedPrecondition: codes.FailedPrecondition,
	errdefs.ErrConflict:           codes.FailedPrecondition,
	errdefs.ErrNotModified:        codes.FailedPrecondition,
	errdefs.ErrAborted:            codes.Aborted,
	errdefs.ErrOutOfRange:         codes.OutOfRange,
	errdefs.ErrNotImplemented:     codes.Unimplemented,
	errdefs.ErrInternal:           codes.Internal,
	errdefs.ErrUnavailable:        codes.Unavailable,
	errdefs.ErrDataLoss:           codes.DataLoss,
	errdefs.ErrUnauthenticated:    codes.Unauthenticated,
	context.DeadlineExceeded:      codes.DeadlineExceeded,
	context.Canceled:              codes.Canceled,
}

// systemKinds are errors of the operating system that say enough by themselves
// where no service gave them a kind.
var systemKinds = []struct {
	err  error
	code codes.Code
}{
	{syscall.ENOSPC, codes.ResourceExhausted},
	{syscall.EDQUOT, codes.ResourceExhausted},
	{syscall.EMFILE, codes.ResourceExhausted},
	{syscall.ENFILE, codes.ResourceExhausted},
	{syscall.ENOMEM, codes.ResourceExhausted},
	{fs.ErrPermission, codes.PermissionDenied},
}

// kubeletPrefixes are the errors that a kubelet recognises by how their message
// begins, so they have to come first whatever was wrapped around them.
var kubeletPrefixes = []error{
	crierrors.ErrRegistryUnavailable,
	crierrors.ErrSignatureValidationFailed,
	crierrors.ErrRROUnsupported,
	crierrors.ErrImageVolumeMountFailed,
}

// asStatus turns err into a gRPC status that keeps its message. An error of no
// known kind is Internal. An error that is a status already stays as it is.
func asStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		if _, wrapped := err.(interface{ GRPCStatus() *status.Status }); wrapped {
			return err
		}
	}
	return status.Error(codeOf(err), messageOf(err))
}

// pullWords are errors of PullImage whose code has to be Unknown: the kubelet's
// client takes the code off such an error and of no other, and with the code in
// front the kubelet does not see the word.
var pullWords = []error{crierrors.ErrRegistryUnavailable, crierrors.ErrSignatureValidationFailed}

// codeOf finds the code for err.
func codeOf(err error) codes.Code {
	for _, known := range pullWords {
		if errors.Is(err, known) {
			return codes.Unknown
		}
	}
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus().Code()
	}
	if code, ok := kinds[errdefs.Resolve(err)]; ok {
		return code
	}
	for _, k := range systemKinds {
		if errors.Is(err, k.err) {
			return k.code
		}
	}
	return codes.Internal
}

// messageOf is err's text, led by the word a kubelet looks for, if it has one.
func messageOf(err error) string {
	text := err.Error()
	for _, known := range kubeletPrefixes {
		if errors.Is(err, known) && !strings.HasPrefix(text, known.Error()) {
			return known.Error() + ": " + text
		}
	}
	return text
}

// codesUnary maps the errors of unary calls.
func codesUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if err != nil {
		return nil, asStatus(err)
	}
	return resp, nil
}

// codesStream maps the errors of streaming calls.
func codesStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return asStatus(handler(srv, stream))
}
