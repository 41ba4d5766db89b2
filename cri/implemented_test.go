package cri

import (
	"context"
	"errors"
	"io"
	"reflect"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Every RPC of the service descriptors is called with an empty request: none
// answers Unimplemented.
func TestEveryRPCIsImplemented(t *testing.T) {
	f := serve(t, nil)
	total := 0
	for _, name := range []protoreflect.FullName{
		protoreflect.FullName(runtimeapi.RuntimeService_ServiceDesc.ServiceName),
		protoreflect.FullName(runtimeapi.ImageService_ServiceDesc.ServiceName),
	} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			total++
			err := invoke(t, f.conn, m)
			if status.Code(err) == codes.Unimplemented {
				t.Errorf("%s is not implemented: %v", m.FullName(), err)
			}
		}
	}
	if total != 43 {
		t.Errorf("cri-api has %d RPCs; 43 were known", total)
	}
}

// invoke calls m with an empty request and returns its error.
func invoke(t *testing.T, conn *grpc.ClientConn, m protoreflect.MethodDescriptor) error {
	t.Helper()
	full := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
	req, resp := newMessage(t, m.Input()), newMessage(t, m.Output())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if !m.IsStreamingServer() {
		return conn.Invoke(ctx, full, req, resp)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, full)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(req); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(resp); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func newMessage(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return mt.New().Interface()
}

// A family's method hides the generated one only if it is not embedded at the
// same depth as another of the name.
func TestHandlerFamiliesDoNotCollide(t *testing.T) {
	seen := map[string]reflect.Type{}
	server := reflect.TypeFor[runtimeServer]()
	for i := range server.NumField() {
		family := server.Field(i).Type
		if family.Kind() != reflect.Pointer {
			continue
		}
		for j := range family.NumMethod() {
			name := family.Method(j).Name
			if other, twice := seen[name]; twice {
				t.Errorf("%s is a method of %v and of %v", name, other, family)
			}
			seen[name] = family
		}
	}
	// The interface has one method that is no call: it keeps others out.
	methods := reflect.TypeFor[runtimeapi.RuntimeServiceServer]().NumMethod() - 1
	if len(seen) != methods {
		t.Errorf("the families have %d methods of %d: %v", len(seen), methods, seen)
	}
}
