package cri

import (
	"context"
	"errors"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// malformedCase changes a good request so that the field at path is malformed.
type malformedCase[R any] struct {
	path   string
	name   string
	change func(R)
}

// malformedTable has the malformed values of one RPC's request.
type malformedTable struct {
	rpc   string
	good  func() proto.Message
	cases []malformedCase[proto.Message]
}

func tableOf[R proto.Message](rpc string, good func() R, cases []malformedCase[R]) malformedTable {
	t := malformedTable{rpc: rpc, good: func() proto.Message { return good() }}
	for _, c := range cases {
		t.cases = append(t.cases, malformedCase[proto.Message]{c.path, c.name, func(m proto.Message) { c.change(m.(R)) }})
	}
	return t
}

// nested makes cases of a message cases of one that it is part of.
func nested[R, M any](path string, part func(R) M, cases []malformedCase[M]) []malformedCase[R] {
	var all []malformedCase[R]
	for _, c := range cases {
		all = append(all, malformedCase[R]{field(path, c.path), c.name, func(r R) { c.change(part(r)) }})
	}
	return all
}

// rpc is one of cri-api.
type rpc struct {
	protoreflect.MethodDescriptor
	full string
}

// allRPCs returns them by their names.
func allRPCs(t testing.TB) map[string]rpc {
	t.Helper()
	all := make(map[string]rpc)
	for _, service := range []string{runtimeapi.RuntimeService_ServiceDesc.ServiceName, runtimeapi.ImageService_ServiceDesc.ServiceName} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			all[string(m.Name())] = rpc{m, "/" + service + "/" + string(m.Name())}
		}
	}
	return all
}

// callRaw sends a request as it is on the wire and returns the call's error.
func (f *fixture) callRaw(ctx context.Context, r rpc, wire []byte) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var resp []byte
	if !r.IsStreamingServer() {
		return f.conn.Invoke(ctx, r.full, &wire, &resp, grpc.ForceCodec(rawCodec{}))
	}
	stream, err := f.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, r.full, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&wire); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		if err := stream.RecvMsg(&resp); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func encode(t testing.TB, m proto.Message) []byte {
	t.Helper()
	wire, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// Each request passes as it should be, and is refused with the path of the field that is
// malformed, before anything of it reaches a service.
func TestMalformedRequests(t *testing.T) {
	f := serve(t, nil)
	rpcs := allRPCs(t)
	for _, table := range malformedTables() {
		r, known := rpcs[table.rpc]
		if !known {
			t.Fatalf("there is no RPC %s", table.rpc)
		}
		if err := f.callRaw(t.Context(), r, encode(t, table.good())); err != nil {
			t.Errorf("%s: a good request: %v", table.rpc, err)
		}
		before := len(f.runtime.seen())
		for _, c := range table.cases {
			t.Run(table.rpc+" "+c.path+" "+c.name, func(t *testing.T) {
				request := table.good()
				c.change(request)
				err := f.callRaw(t.Context(), r, encode(t, request))
				if status.Code(err) != codes.InvalidArgument {
					t.Fatalf("answer is %v", err)
				}
				text := status.Convert(err).Message()
				if !strings.HasPrefix(text, c.path+": ") {
					t.Errorf("error %q does not begin with the field %s", text, c.path)
				}
				if strings.ContainsAny(text, "\n\x00\x1b") {
					t.Errorf("error %q repeats control characters", text)
				}
			})
		}
		if after := f.runtime.seen(); len(after) != before {
			t.Errorf("%s: malformed requests reached the service: %v", table.rpc, after[before:])
		}
	}
}

// Every text of every request that is not UTF-8 is refused, with the name of its field.
func TestTextThatIsNotUTF8(t *testing.T) {
	f := serve(t, nil)
	for _, r := range allRPCs(t) {
		texts(r.Input(), nil, func(fields []protoreflect.FieldDescriptor) {
			t.Run(string(r.Name())+" "+pathOf(fields), func(t *testing.T) {
				err := f.callRaw(t.Context(), r, wireOf(fields, "a\xff"))
				if want := pathOf(fields) + ": is not UTF-8"; status.Code(err) != codes.InvalidArgument || status.Convert(err).Message() != want {
					t.Errorf("answer is %v, want %s", err, want)
				}
			})
		})
	}
	if seen := f.runtime.seen(); len(seen) != 0 {
		t.Errorf("the service saw %v", seen)
	}
}

// texts yields each way to a field of text in m.
func texts(m protoreflect.MessageDescriptor, above []protoreflect.FieldDescriptor, yield func([]protoreflect.FieldDescriptor)) {
	for i := range m.Fields().Len() {
		path := append(slices.Clone(above), m.Fields().Get(i))
		switch f := m.Fields().Get(i); f.Kind() {
		case protoreflect.StringKind:
			yield(path)
		case protoreflect.MessageKind:
			texts(f.Message(), path, yield)
		}
	}
}

// wireOf encodes a message with nothing but a text at the end of the path.
func wireOf(path []protoreflect.FieldDescriptor, text string) []byte {
	wire := []byte(text)
	for _, f := range slices.Backward(path) {
		wire = append(protowire.AppendTag(nil, f.Number(), protowire.BytesType), protowire.AppendBytes(nil, wire)...)
	}
	return wire
}

// pathOf is a path as errors have it: a map's entries are not told apart.
func pathOf(fields []protoreflect.FieldDescriptor) string {
	path := ""
	for _, f := range fields {
		if f.ContainingMessage().IsMapEntry() {
			return path
		}
		path = fieldAt(path, f, 0)
	}
	return path
}

// neverMalformed are fields any value of which is a good one, and why: one by its message, or
// all below one of that name, everywhere or in an RPC. A boolean is never malformed by itself
// and is not here.
var neverMalformed = map[string]string{
	"PullImage sandbox_config":   "has no part in a pull but for the pod's names",
	"VersionRequest.version":     "what the client is for is not asked: the answer says what Berth is",
	"PodSandboxMetadata.attempt": "any number is one",
	"ContainerMetadata.attempt":  "any number is one",
	"HugepageLimit.limit":        "any number of bytes is a limit; whether the node has as many is its own to say",
	"windows":                    "for another operating system: not looked at",
}

var elements = regexp.MustCompile(`\[(\d+|"([^"\\]|\\.)*")\]`)

// Every field of every request has a malformed value in the table of its RPC, or a reason why
// there is none.
func TestEveryFieldHasMalformedValues(t *testing.T) {
	covered := make(map[string]map[string]bool)
	for _, table := range malformedTables() {
		if covered[table.rpc] != nil {
			t.Errorf("%s has two tables", table.rpc)
		}
		covered[table.rpc] = make(map[string]bool)
		for _, c := range table.cases {
			covered[table.rpc][elements.ReplaceAllString(c.path, "")] = true
		}
	}
	unused := maps.Clone(neverMalformed)
	for name, r := range allRPCs(t) {
		if covered[name] == nil {
			t.Errorf("%s has no table", name)
		}
		known := make(map[string]bool)
		values(r.Input(), "", func(path string, f protoreflect.FieldDescriptor) {
			known[path] = true
			if covered[name][path] || f.Kind() == protoreflect.BoolKind {
				return
			}
			entries := []string{string(f.Parent().Name()) + "." + string(f.Name())}
			for element := range strings.SplitSeq(path, ".") {
				entries = append(entries, element, name+" "+element)
			}
			for _, entry := range entries {
				if _, never := neverMalformed[entry]; never {
					delete(unused, entry)
					return
				}
			}
			t.Errorf("%s: %s has no malformed value", name, path)
		})
		for path := range covered[name] {
			if !known[path] && !messageAt(r.Input(), path) {
				t.Errorf("%s: the table is about %s, which is no field", name, path)
			}
		}
	}
	for entry := range unused {
		t.Errorf("%s has malformed values everywhere: it need not be on the list", entry)
	}
}

// values yields the fields of m, and of the messages in it, that are no messages themselves.
func values(m protoreflect.MessageDescriptor, above string, yield func(path string, f protoreflect.FieldDescriptor)) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		path := field(above, string(f.Name()))
		switch {
		case f.Message() == nil || f.IsMap() || f.Message().Name() == "Int64Value":
			yield(path, f)
		default:
			values(f.Message(), path, yield)
		}
	}
}

// messageAt tells whether there is a message at the path.
func messageAt(m protoreflect.MessageDescriptor, path string) bool {
	for name := range strings.SplitSeq(path, ".") {
		f := m.Fields().ByName(protoreflect.Name(name))
		if f == nil || f.Message() == nil {
			return false
		}
		m = f.Message()
	}
	return true
}
