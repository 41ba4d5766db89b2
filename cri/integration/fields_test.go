package integration

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Every field of every request of CRI is set by some test of this suite, in a
// request that a berthd was sent: what the clients encode is looked at, so a
// field that is set in Go and never sent does not count. A number, text or enum
// counts when it is not zero, which on the wire is not there. Fields are those
// of a message, wherever it occurs: setting PodSandboxConfig.hostname once is
// enough.
//
// The check is made after a whole run that passed.

// fieldsToCome are those that no test sets yet, as Message.field, or as Message
// for all of its fields. Whoever covers one takes it off; a run says which are
// covered on the machine it is on, which may not be so on others. Do not add to
// it.
var fieldsToCome = []string{}

// sentFields records the fields of all requests that clients of this process
// encode.
type sentFields struct {
	encoding.CodecV2

	mu  sync.Mutex
	set map[string]bool
}

// recordFields puts itself into the place of gRPC's codec for protocol buffers.
// It is called before there is a client.
func recordFields() *sentFields {
	s := &sentFields{CodecV2: encoding.GetCodecV2(grpcproto.Name), set: make(map[string]bool)}
	encoding.RegisterCodecV2(s)
	return s
}

func (s *sentFields) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(proto.Message); ok {
		s.mu.Lock()
		s.record(m.ProtoReflect())
		s.mu.Unlock()
	}
	return s.CodecV2.Marshal(v)
}

func (s *sentFields) record(m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		s.set[fieldName(field)] = true
		switch {
		case field.IsMap() || field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				s.record(value.List().Get(i).Message())
			}
		default:
			s.record(value.Message())
		}
		return true
	})
}

func fieldName(field protoreflect.FieldDescriptor) string {
	return string(field.Parent().Name()) + "." + string(field.Name())
}

// check returns the fields that are neither set nor on the list, and the entries
// of the list that are covered.
func (s *sentFields) check() (missing, covered []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := make(map[string]bool)
	for _, service := range []string{runtimeapi.RuntimeService_ServiceDesc.ServiceName, runtimeapi.ImageService_ServiceDesc.ServiceName} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			return []string{err.Error()}, nil
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			requestFields(methods.Get(i).Input(), known)
		}
	}
	needed := make(map[string]bool) // entries of the list
	for _, field := range slices.Sorted(maps.Keys(known)) {
		message, _, _ := strings.Cut(field, ".")
		switch {
		case s.set[field]:
		case slices.Contains(fieldsToCome, field):
			needed[field] = true
		case slices.Contains(fieldsToCome, message):
			needed[message] = true
		default:
			missing = append(missing, field)
		}
	}
	for _, entry := range fieldsToCome {
		if !needed[entry] {
			covered = append(covered, entry)
		}
	}
	return missing, covered
}

// requestFields adds the fields of a message and of those in it. What is for
// another operating system is left out.
func requestFields(message protoreflect.MessageDescriptor, known map[string]bool) {
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		if field.Name() == "windows" || known[fieldName(field)] {
			continue
		}
		known[fieldName(field)] = true
		if field.Message() != nil && !field.IsMap() {
			requestFields(field.Message(), known)
		}
	}
}

// wholeRun tells whether no test was left out by a flag.
func wholeRun() bool {
	for _, name := range []string{"test.run", "test.skip", "test.list"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return false
		}
	}
	return true
}

// checkFields is the exit code after a run with that exit code.
func checkFields(sent *sentFields, code int) int {
	if code != 0 || !wholeRun() {
		return code
	}
	missing, covered := sent.check()
	for _, entry := range covered {
		fmt.Println("fields of requests: a test sets", entry, "here, which is on the list of those to come")
	}
	for _, field := range missing {
		fmt.Println("--- FAIL: fields of requests: no test sets", field)
	}
	if len(missing) > 0 {
		return 1
	}
	return 0
}
