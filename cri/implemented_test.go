package cri

import (
	"context"
	"errors"
	"io"
	"reflect"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// unimplemented are the RPCs of cri-api v0.37 that are still to come.
var unimplemented = []string{
	"CheckpointContainer",
	"CheckpointPod",
	"ListMetricDescriptors",
	"ListPodSandboxMetrics",
	"RestorePod",
	"StreamContainerStats",
	"StreamContainers",
	"StreamImages",
	"StreamPodSandboxMetrics",
	"StreamPodSandboxStats",
	"StreamPodSandboxes",
	"UpdatePodSandboxResources",
	"UpdateRuntimeConfig",
}

// Every RPC of the service descriptors is called with an empty request: those
// in the list answer Unimplemented, all others something else.
func TestWhichRPCsAreImplemented(t *testing.T) {
	f := serve(t, nil)
	var got []string
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
			if err := invoke(t, f.conn, m); status.Code(err) == codes.Unimplemented {
				got = append(got, string(m.Name()))
			}
		}
	}
	if total != 43 {
		t.Errorf("cri-api has %d RPCs, the list was made for 43", total)
	}
	slices.Sort(got)
	if !slices.Equal(got, unimplemented) {
		t.Errorf("these answer Unimplemented:\n%v\nwant:\n%v", got, unimplemented)
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
	if len(seen) != 43-6-len(unimplemented)+1 {
		t.Errorf("the families have %d methods: %v", len(seen), seen)
	}
}
