package integration

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	invalidArgument    = codes.InvalidArgument
	notFound           = codes.NotFound
	failedPrecondition = codes.FailedPrecondition
	alreadyExists      = codes.AlreadyExists
	deadlineExceeded   = codes.DeadlineExceeded
	unavailable        = codes.Unavailable
)

// wantCode checks the code of an error, and that it says something.
func wantCode(t testing.TB, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("%s: %v, want %v: %v", what, got, want, err)
	}
	if err != nil && status.Convert(err).Message() == "" {
		t.Errorf("%s: the error says nothing", what)
	}
}

func statusCode(err error) codes.Code { return status.Code(err) }
