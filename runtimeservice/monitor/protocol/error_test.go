package protocol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
)

// TestErrorsKeepTheirKind sends errors as the monitor and the client do.
func TestErrorsKeepTheirKind(t *testing.T) {
	full := &os.PathError{Op: "write", Path: "/run/record", Err: syscall.ENOSPC}
	for _, test := range []struct{ sent, kind error }{
		{errdefs.ErrNotFound, errdefs.ErrNotFound},
		{errdefs.ErrFailedPrecondition, errdefs.ErrFailedPrecondition},
		{errdefs.ErrUnavailable, errdefs.ErrUnavailable},
		{context.DeadlineExceeded, context.DeadlineExceeded},
		{context.Canceled, context.Canceled},
		{fmt.Errorf("%w: no such file", ErrCommand), ErrCommand},
		{fmt.Errorf("%w: no such file", ErrCommand), errdefs.ErrInvalidArgument},
		{full, errdefs.ErrResourceExhausted},
		{fmt.Errorf("%w: %w", full, errdefs.ErrUnavailable), errdefs.ErrUnavailable},
	} {
		sent := fmt.Errorf("start container: %w", test.sent)
		body, err := json.Marshal(EncodeError(sent))
		if err != nil {
			t.Fatal(err)
		}
		var received Error
		if err := json.Unmarshal(body, &received); err != nil {
			t.Fatal(err)
		}
		got := received.Err()
		if !errors.Is(got, test.kind) || got.Error() != sent.Error() {
			t.Errorf("%v arrives as %v, not as %v", sent, got, test.kind)
		}
	}
	if got := EncodeError(errors.New("boom")).Err(); errdefs.Resolve(got) != errdefs.ErrUnknown {
		t.Errorf("an error without a kind arrives as %v", errdefs.Resolve(got))
	}
}
