package berthapi

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-cri/berth/operation"
)

func TestListOperations(t *testing.T) {
	var registry operation.Registry
	c := NewOperationsClient(dial(t, func(s *grpc.Server) { RegisterOperations(s, Operations{&registry}) }))

	ctx, op := registry.Begin(t.Context(), "StopContainer", operation.Subject{Pod: "web", Container: "nginx"}, operation.Options{})
	release := operation.Hold(ctx)
	defer release()
	in, end := operation.Stage(ctx, "kill")
	defer end(nil)
	defer operation.Wait(in, func() string { return "the process" })()
	op.End(errors.New("deadline"))
	_, events := registry.Begin(t.Context(), "GetContainerEvents", operation.Subject{}, operation.Options{Standing: true})
	defer events.End(nil)

	list := func(req ListOperationsRequest) []Operation {
		t.Helper()
		resp, err := c.ListOperations(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Operations
	}
	ops := list(ListOperationsRequest{})
	if len(ops) != 1 {
		t.Fatalf("%d operations: %+v", len(ops), ops)
	}
	got := ops[0]
	if got.ID == 0 || got.Method != "StopContainer" || got.Pod != "web" || got.Container != "nginx" || !got.Answered || got.Outcome != "deadline" ||
		got.Began.IsZero() || len(got.Steps) != 1 || got.Steps[0].Stage != "kill" || got.Steps[0].WaitsFor != "the process" {
		t.Errorf("operation %+v", got)
	}
	if ops := list(ListOperationsRequest{MinSeconds: 3600}); len(ops) != 0 {
		t.Errorf("older than an hour: %+v", ops)
	}
	if ops := list(ListOperationsRequest{All: true}); len(ops) != 2 || !ops[1].Standing {
		t.Errorf("all: %+v", ops)
	}
}

func TestListOperationsOfAnotherRuntime(t *testing.T) {
	c := NewOperationsClient(dial(t, func(*grpc.Server) {}))
	_, err := c.ListOperations(context.Background(), ListOperationsRequest{})
	if status.Code(err) != codes.Unimplemented || !strings.HasPrefix(err.Error(), "list operations: ") {
		t.Errorf("error is %v", err)
	}
}
