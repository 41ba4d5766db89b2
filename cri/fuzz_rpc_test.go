package cri

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Any bytes as the request of each RPC, through the whole of the server: its codec, what is
// around the calls, the checks and the handlers, over services that agree to everything.

func FuzzVersion(f *testing.F)                   { fuzzRPC(f, "Version") }
func FuzzRunPodSandbox(f *testing.F)             { fuzzRPC(f, "RunPodSandbox") }
func FuzzStopPodSandbox(f *testing.F)            { fuzzRPC(f, "StopPodSandbox") }
func FuzzRemovePodSandbox(f *testing.F)          { fuzzRPC(f, "RemovePodSandbox") }
func FuzzPodSandboxStatus(f *testing.F)          { fuzzRPC(f, "PodSandboxStatus") }
func FuzzListPodSandbox(f *testing.F)            { fuzzRPC(f, "ListPodSandbox") }
func FuzzStreamPodSandboxes(f *testing.F)        { fuzzRPC(f, "StreamPodSandboxes") }
func FuzzCreateContainer(f *testing.F)           { fuzzRPC(f, "CreateContainer") }
func FuzzStartContainer(f *testing.F)            { fuzzRPC(f, "StartContainer") }
func FuzzStopContainer(f *testing.F)             { fuzzRPC(f, "StopContainer") }
func FuzzRemoveContainer(f *testing.F)           { fuzzRPC(f, "RemoveContainer") }
func FuzzListContainers(f *testing.F)            { fuzzRPC(f, "ListContainers") }
func FuzzStreamContainers(f *testing.F)          { fuzzRPC(f, "StreamContainers") }
func FuzzContainerStatus(f *testing.F)           { fuzzRPC(f, "ContainerStatus") }
func FuzzUpdateContainerResources(f *testing.F)  { fuzzRPC(f, "UpdateContainerResources") }
func FuzzReopenContainerLog(f *testing.F)        { fuzzRPC(f, "ReopenContainerLog") }
func FuzzExecSync(f *testing.F)                  { fuzzRPC(f, "ExecSync") }
func FuzzExec(f *testing.F)                      { fuzzRPC(f, "Exec") }
func FuzzAttach(f *testing.F)                    { fuzzRPC(f, "Attach") }
func FuzzPortForward(f *testing.F)               { fuzzRPC(f, "PortForward") }
func FuzzContainerStats(f *testing.F)            { fuzzRPC(f, "ContainerStats") }
func FuzzListContainerStats(f *testing.F)        { fuzzRPC(f, "ListContainerStats") }
func FuzzStreamContainerStats(f *testing.F)      { fuzzRPC(f, "StreamContainerStats") }
func FuzzPodSandboxStats(f *testing.F)           { fuzzRPC(f, "PodSandboxStats") }
func FuzzListPodSandboxStats(f *testing.F)       { fuzzRPC(f, "ListPodSandboxStats") }
func FuzzStreamPodSandboxStats(f *testing.F)     { fuzzRPC(f, "StreamPodSandboxStats") }
func FuzzUpdateRuntimeConfig(f *testing.F)       { fuzzRPC(f, "UpdateRuntimeConfig") }
func FuzzStatus(f *testing.F)                    { fuzzRPC(f, "Status") }
func FuzzCheckpointContainer(f *testing.F)       { fuzzRPC(f, "CheckpointContainer") }
func FuzzGetContainerEvents(f *testing.F)        { fuzzRPC(f, "GetContainerEvents") }
func FuzzListMetricDescriptors(f *testing.F)     { fuzzRPC(f, "ListMetricDescriptors") }
func FuzzListPodSandboxMetrics(f *testing.F)     { fuzzRPC(f, "ListPodSandboxMetrics") }
func FuzzStreamPodSandboxMetrics(f *testing.F)   { fuzzRPC(f, "StreamPodSandboxMetrics") }
func FuzzRuntimeConfig(f *testing.F)             { fuzzRPC(f, "RuntimeConfig") }
func FuzzUpdatePodSandboxResources(f *testing.F) { fuzzRPC(f, "UpdatePodSandboxResources") }
func FuzzCheckpointPod(f *testing.F)             { fuzzRPC(f, "CheckpointPod") }
func FuzzRestorePod(f *testing.F)                { fuzzRPC(f, "RestorePod") }
func FuzzListImages(f *testing.F)                { fuzzRPC(f, "ListImages") }
func FuzzStreamImages(f *testing.F)              { fuzzRPC(f, "StreamImages") }
func FuzzImageStatus(f *testing.F)               { fuzzRPC(f, "ImageStatus") }
func FuzzPullImage(f *testing.F)                 { fuzzRPC(f, "PullImage") }
func FuzzRemoveImage(f *testing.F)               { fuzzRPC(f, "RemoveImage") }
func FuzzImageFsInfo(f *testing.F)               { fuzzRPC(f, "ImageFsInfo") }

// fuzzRPC begins with the good request and all the malformed ones that are known. No answer
// may be Unknown or Internal, which a panic is, too, and each comes.
func fuzzRPC(f *testing.F, name string) {
	r, known := allRPCs(f)[name]
	if !known {
		f.Fatalf("there is no RPC %s", name)
	}
	f.Add([]byte{})
	for _, table := range malformedTables() {
		if table.rpc != name {
			continue
		}
		f.Add(encode(f, table.good()))
		for _, c := range table.cases {
			request := table.good()
			c.change(request)
			// Large ones add nothing but the time to change them.
			if proto.Size(request) < maxText {
				f.Add(encode(f, request))
			}
		}
	}
	server := serve(f, nil)
	f.Fuzz(func(t *testing.T, wire []byte) {
		err := server.callRaw(context.Background(), r, wire)
		server.runtime.forget()
		switch status.Code(err) {
		case codes.OK:
		case codes.InvalidArgument, codes.NotFound, codes.FailedPrecondition:
			if text := status.Convert(err).Message(); !utf8.ValidString(text) || plain("", text) != nil {
				t.Errorf("the text %q is not to be printed", text)
			}
		default:
			t.Errorf("answer is %v", err)
		}
	})
}

// forget drops the calls so far.
func (f *fakeRuntime) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = nil
}

// Each RPC has its target: one that does not name itself is of no use.
func TestEveryRPCIsFuzzed(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "fuzz_rpc_test.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	targets := make(map[string]bool)
	ast.Inspect(file, func(n ast.Node) bool {
		decl, ok := n.(*ast.FuncDecl)
		if !ok || !strings.HasPrefix(decl.Name.Name, "Fuzz") {
			return true
		}
		name := strings.TrimPrefix(decl.Name.Name, "Fuzz")
		ast.Inspect(decl.Body, func(n ast.Node) bool {
			if literal, ok := n.(*ast.BasicLit); ok && literal.Value == `"`+name+`"` {
				targets[name] = true
			}
			return true
		})
		return true
	})
	for name := range allRPCs(t) {
		if !targets[name] {
			t.Errorf("%s has no fuzz target of its own", name)
		}
	}
}
