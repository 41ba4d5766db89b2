package main

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/berth-cri/berth/config"
)

// A call that does not end is cut off after the limit, not waited for.
func TestDrainIsBounded(t *testing.T) {
	called := make(chan struct{})
	server := grpc.NewServer()
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.Service",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Hang", Handler: func(_ any, ctx context.Context, _ func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			close(called)
			<-ctx.Done()
			return nil, ctx.Err()
		}}},
	}, struct{}{})
	socket := filepath.Join(shortTempDir(t), "s.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(listener)
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer := make(chan error)
	go func() {
		answer <- conn.Invoke(context.Background(), "/test.Service/Hang", &emptypb.Empty{}, &emptypb.Empty{})
	}()
	<-called
	var warnings []string
	drain(server, 10*time.Millisecond, func(text string, _ ...any) { warnings = append(warnings, text) })
	if err := <-answer; status.Code(err) != codes.Unavailable {
		t.Errorf("the call ends with %v", err)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "cutting them off") {
		t.Errorf("warnings are %q", warnings)
	}
}

func TestLiveKeysNeedSomebody(t *testing.T) {
	s := &surface{live: map[string]func(config.Config){}}
	err := s.checkReload()
	if err == nil {
		t.Fatal("no error though nothing takes over anything")
	}
	for _, k := range config.Keys() {
		if k.Live {
			s.OnReload(k.Path, func(config.Config) {})
		}
	}
	if err := s.checkReload(); err != nil {
		t.Error(err)
	}
}
