package berthapi

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/berth-cri/berth/operation"
)

const (
	operationsService    = "berth.v1.Operations"
	listOperationsMethod = "ListOperations"
	listOperationsPath   = "/" + operationsService + "/" + listOperationsMethod
)

// Operation is a call, or work in the background, that runs.
type Operation struct {
	ID     uint64 `json:"id"`
	Method string `json:"method"`
	operation.Subject
	Began time.Time `json:"began"`
	// Seconds is how long it has run, by the daemon's clock.
	Seconds float64 `json:"seconds"`
	// Standing is one that lasts by its nature, as a stream of events does.
	Standing bool `json:"standing,omitempty"`
	// Answered says that its caller has an answer, or has gone, and that the work
	// goes on. Outcome is that answer's error, empty for none.
	Answered bool   `json:"answered,omitempty"`
	Outcome  string `json:"outcome,omitempty"`
	Steps    []Step `json:"steps,omitempty"`
}

// Step is what an operation does now.
type Step struct {
	Stage    string `json:"stage,omitempty"`
	WaitsFor string `json:"waitsFor,omitempty"`
	// Seconds is how long it has.
	Seconds float64 `json:"seconds"`
}

// ListOperationsRequest asks for operations that have run for at least MinSeconds;
// All adds those that last by their nature.
type ListOperationsRequest struct {
	MinSeconds float64 `json:"minSeconds"`
	All        bool    `json:"all"`
}

// ListOperationsResponse has them, the oldest first.
type ListOperationsResponse struct {
	Operations []Operation `json:"operations"`
}

// OperationsServer answers the service berth.v1.Operations.
type OperationsServer interface {
	ListOperations(ctx context.Context, req ListOperationsRequest) ListOperationsResponse
}

// Operations is the OperationsServer of a registry.
type Operations struct{ Registry *operation.Registry }

var _ OperationsServer = Operations{}

// ListOperations implements OperationsServer. It waits for nothing. The call
// itself is not in the list.
func (o Operations) ListOperations(ctx context.Context, req ListOperationsRequest) ListOperationsResponse {
	now, self := time.Now(), operation.From(ctx)
	resp := ListOperationsResponse{Operations: []Operation{}}
	for _, info := range o.Registry.Running() {
		age := now.Sub(info.Began)
		if age.Seconds() < req.MinSeconds || info.Standing && !req.All || self.Is(info.ID) {
			continue
		}
		shown := Operation{
			ID: info.ID, Method: info.Method, Subject: info.Subject,
			Began: info.Began.UTC(), Seconds: age.Seconds(),
			Standing: info.Standing, Answered: info.Answered,
		}
		if info.Outcome != nil {
			shown.Outcome = info.Outcome.Error()
		}
		for _, s := range info.Steps {
			shown.Steps = append(shown.Steps, Step{Stage: s.Stage, WaitsFor: s.WaitsFor, Seconds: now.Sub(s.Since).Seconds()})
		}
		resp.Operations = append(resp.Operations, shown)
	}
	return resp
}

// RegisterOperations makes s serve berth.v1.Operations by srv.
func RegisterOperations(s grpc.ServiceRegistrar, srv OperationsServer) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: operationsService,
		HandlerType: (*OperationsServer)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: listOperationsMethod, Handler: serveListOperations}},
	}, srv)
}

func serveListOperations(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
	in := &structpb.Struct{}
	if err := decode(in); err != nil {
		return nil, err
	}
	handle := func(ctx context.Context, in any) (any, error) {
		var req ListOperationsRequest
		if err := fromStruct(in.(*structpb.Struct), &req); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		return toStruct(srv.(OperationsServer).ListOperations(ctx, req))
	}
	if interceptor == nil {
		return handle(ctx, in)
	}
	return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: listOperationsPath}, handle)
}

// OperationsClient calls the service berth.v1.Operations.
type OperationsClient struct {
	conn grpc.ClientConnInterface
}

// NewOperationsClient returns a client on conn, which stays the caller's to close.
func NewOperationsClient(conn grpc.ClientConnInterface) *OperationsClient {
	return &OperationsClient{conn: conn}
}

// ListOperations lists what the daemon does now. A runtime that is not Berth
// answers codes.Unimplemented.
func (c *OperationsClient) ListOperations(ctx context.Context, req ListOperationsRequest) (ListOperationsResponse, error) {
	var resp ListOperationsResponse
	in, err := toStruct(req)
	if err != nil {
		return resp, err
	}
	out := &structpb.Struct{}
	if err := c.conn.Invoke(ctx, listOperationsPath, in, out); err != nil {
		return resp, fmt.Errorf("list operations: %w", err)
	}
	return resp, fromStruct(out, &resp)
}
