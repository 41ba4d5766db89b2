package client

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestSocketErrors(t *testing.T) {
	for errno, hint := range map[syscall.Errno]string{
		syscall.ENOENT:       "is berthd running?",
		syscall.EACCES:       "run berth as root",
		syscall.EPERM:        "run berth as root",
		syscall.ECONNREFUSED: "berthd has ended",
	} {
		dial := &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", errno)}
		err := socketError("/run/x.sock", dial)
		if want := "connect to /run/x.sock: " + errno.Error(); err.Error() != want {
			t.Errorf("%v: text %q, want %q", errno, err, want)
		}
		if !strings.Contains(Hint(err), hint) || !errors.Is(err, errno) {
			t.Errorf("%v: hint %q", errno, Hint(err))
		}
	}
	if err := socketError("/x", syscall.EMFILE); Hint(err) != "" {
		t.Errorf("hint %q", Hint(err))
	}
}

func TestSocketPath(t *testing.T) {
	for _, address := range []string{"/run/x", "unix:///run/x"} {
		if path, err := socketPath(address); err != nil || path != "/run/x" {
			t.Errorf("%s: %q, %v", address, path, err)
		}
	}
	for _, address := range []string{"", "run/x", "unix://run/x", "tcp://1.2.3.4:5", "http:///run/x"} {
		if path, err := socketPath(address); err == nil {
			t.Errorf("%s is taken as %q", address, path)
		}
	}
}

func TestRPCErrorsKeepTheirCode(t *testing.T) {
	err := fmt.Errorf("stop: %w", fromRPC(status.Error(codes.NotFound, "no such thing")))
	if err.Error() != "stop: no such thing" || Code(err) != codes.NotFound {
		t.Errorf("%q with code %s", err, Code(err))
	}
	if err := fromRPC(status.Error(codes.Aborted, "")); err.Error() != "Aborted" {
		t.Errorf("without a message: %q", err)
	}
	if err := fromRPC(io.EOF); err != io.EOF {
		t.Errorf("io.EOF became %v", err)
	}
	if err := fromRPC(nil); err != nil {
		t.Errorf("nil became %v", err)
	}
	if Code(nil) != codes.OK || Code(io.EOF) != codes.Unknown {
		t.Error("codes of errors that are none of a call")
	}
}

func TestHintsFindTheirWayThroughWrapping(t *testing.T) {
	err := fmt.Errorf("x: %w", errors.Join(io.EOF, fmt.Errorf("y: %w", &NotFoundError{Kind: "pod", Ref: "p"})))
	if Hint(err) != "`berth pods` lists all pods" {
		t.Errorf("hint %q", Hint(err))
	}
	if Hint(io.EOF) != "" {
		t.Error("io.EOF has a hint")
	}
}

func ctr(id, pod, name string, created int64) *runtimeapi.Container {
	return &runtimeapi.Container{Id: id, PodSandboxId: pod, CreatedAt: created, Metadata: &runtimeapi.ContainerMetadata{Name: name}}
}

func pod(id, name, uid string, created int64) *runtimeapi.PodSandbox {
	return &runtimeapi.PodSandbox{Id: id, CreatedAt: created, Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "ns", Uid: uid}}
}

func TestPickContainer(t *testing.T) {
	pods := map[string]*runtimeapi.PodSandbox{
		"p1": pod("p1", "web", "u1", 1), "p1b": pod("p1b", "web", "u1", 2), "p2": pod("p2", "db", "u2", 3),
	}
	all := []*runtimeapi.Container{
		ctr("abc1", "p1", "app", 1), ctr("abc2", "p1b", "app", 5), // of two sandboxes of one pod
		ctr("abd3", "p1b", "side", 2), ctr("dead4", "p2", "side", 3),
		ctr("fff5", "p2", "abd", 4), ctr("abc22", "lost", "orphan", 9),
	}
	for ref, want := range map[string]string{
		"app": "abc2", "web/app": "abc2", "web/side": "abd3", "db/side": "dead4",
		"abc1": "abc1", "abc2": "abc2", "dea": "dead4",
		"abd":    "fff5", // a name goes before the beginning of an ID
		"orphan": "abc22",
	} {
		if got, err := pickContainer(ref, all, pods); err != nil || got.Id != want {
			t.Errorf("%s: %v, %v, want %s", ref, got.GetId(), err, want)
		}
	}
	var ambiguous *AmbiguousError
	if _, err := pickContainer("side", all, pods); !errors.As(err, &ambiguous) || len(ambiguous.Candidates) != 2 {
		t.Errorf("side: %v", err)
	}
	if _, err := pickContainer("abc", all, pods); !errors.As(err, &ambiguous) || len(ambiguous.Candidates) != 3 {
		t.Errorf("abc: %v", err)
	}
	var missing *NotFoundError
	for _, ref := range []string{"", "x", "web/", "/app", "web/abd"} {
		if got, err := pickContainer(ref, all, pods); !errors.As(err, &missing) {
			t.Errorf("%q: %v, %v", ref, got, err)
		}
	}
}

func TestPickPod(t *testing.T) {
	all := []*runtimeapi.PodSandbox{
		pod("aa1", "web", "u1", 1), pod("aa2", "web", "u1", 2), // two sandboxes of one pod
		pod("bb3", "db", "u2", 1), pod("bb4", "db", "u3", 1), // made anew
	}
	for ref, want := range map[string]string{"web": "aa2", "ns/web": "aa2", "aa1": "aa1", "bb3": "bb3"} {
		if got, err := pickPod(ref, all); err != nil || got.Id != want {
			t.Errorf("%s: %v, %v, want %s", ref, got.GetId(), err, want)
		}
	}
	var ambiguous *AmbiguousError
	for _, ref := range []string{"db", "aa", "bb"} {
		if got, err := pickPod(ref, all); !errors.As(err, &ambiguous) || len(ambiguous.Candidates) != 2 {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
	var missing *NotFoundError
	for _, ref := range []string{"", "cc", "other/web"} {
		if got, err := pickPod(ref, all); !errors.As(err, &missing) {
			t.Errorf("%q: %v, %v", ref, got, err)
		}
	}
}
