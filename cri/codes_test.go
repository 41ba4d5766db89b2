package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
	criclient "k8s.io/cri-client/pkg"
)

func TestErrorsBecomeCodes(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("pull image %q: %w", "a", err) }
	for _, c := range []struct {
		err  error
		code codes.Code
	}{
		{wrap(errdefs.ErrInvalidArgument), codes.InvalidArgument},
		{wrap(errdefs.ErrNotFound), codes.NotFound},
		{wrap(errdefs.ErrAlreadyExists), codes.AlreadyExists},
		{wrap(errdefs.ErrPermissionDenied), codes.PermissionDenied},
		{wrap(errdefs.ErrResourceExhausted), codes.ResourceExhausted},
		{wrap(errdefs.ErrFailedPrecondition), codes.FailedPrecondition},
		{wrap(errdefs.ErrConflict), codes.FailedPrecondition},
		{wrap(errdefs.ErrAborted), codes.Aborted},
		{wrap(errdefs.ErrOutOfRange), codes.OutOfRange},
		{wrap(errdefs.ErrNotImplemented), codes.Unimplemented},
		{wrap(errdefs.ErrInternal), codes.Internal},
		{wrap(errdefs.ErrUnavailable), codes.Unavailable},
		{wrap(errdefs.ErrDataLoss), codes.DataLoss},
		{wrap(errdefs.ErrUnauthenticated), codes.Unauthenticated},
		{wrap(context.DeadlineExceeded), codes.DeadlineExceeded},
		{wrap(context.Canceled), codes.Canceled},
		{invalid("config.image", "must be set"), codes.InvalidArgument},
		{wrap(&os.PathError{Op: "write", Path: "/a", Err: syscall.ENOSPC}), codes.ResourceExhausted},
		{wrap(&os.PathError{Op: "open", Path: "/a", Err: syscall.EACCES}), codes.PermissionDenied},
		{wrap(fmt.Errorf("%w: %w", errdefs.ErrUnavailable, syscall.ENOSPC)), codes.Unavailable},
		{wrap(status.Error(codes.Aborted, "later")), codes.Aborted},
		{errOops, codes.Internal},
		{errors.Join(errOops, wrap(errdefs.ErrNotFound)), codes.NotFound},
	} {
		got := asStatus(c.err)
		if status.Code(got) != c.code {
			t.Errorf("%v: code %v, want %v", c.err, status.Code(got), c.code)
		}
		if text := status.Convert(got).Message(); text != c.err.Error() {
			t.Errorf("%v: text %q", c.err, text)
		}
	}
	if asStatus(nil) != nil {
		t.Error("no error became one")
	}
	made := status.Error(codes.OutOfRange, "as it is")
	if asStatus(made) != made {
		t.Error("a status did not stay as it is")
	}
}

// A kubelet compares how the text begins.
func TestKubeletWordsComeFirst(t *testing.T) {
	for _, known := range kubeletPrefixes {
		inner := fmt.Errorf("pull image %q: %w: %w", "a", known, errdefs.ErrUnavailable)
		if got := status.Convert(asStatus(inner)).Message(); !strings.HasPrefix(got, known.Error()+": ") {
			t.Errorf("text is %q", got)
		}
		leading := fmt.Errorf("%w: host is down", known)
		if got := status.Convert(asStatus(leading)).Message(); got != leading.Error() {
			t.Errorf("text is %q", got)
		}
	}
	if got := messageOf(crierrors.ErrRegistryUnavailable); got != "RegistryUnavailable" {
		t.Errorf("text is %q", got)
	}
}

// What the kubelet's client makes of them is what the kubelet looks at.
func TestPullErrorsReachTheKubelet(t *testing.T) {
	f := serve(t, nil)
	images, err := criclient.NewRemoteImageServiceBuilder().WithEndpoint("unix://" + f.socket).WithConnectionTimeout(time.Minute).Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close(t.Context())
	for _, known := range pullWords {
		f.images.err = fmt.Errorf("pull image %q: %w: %w", "a", known, errdefs.ErrUnavailable)
		_, err := images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: "a"}, nil, nil)
		if err == nil || !strings.HasPrefix(err.Error(), known.Error()) {
			t.Errorf("the kubelet sees %v", err)
		}
		f.images.err = nil
	}
}
