package main

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berthd/internal/monitoring"
	"github.com/berth-cri/berth/config"
	"github.com/berth-cri/berth/runtimeservice/monitor"
)

type fakeInfo func(context.Context) (monitor.Info, error)

func (f fakeInfo) Info(ctx context.Context) (monitor.Info, error) { return f(ctx) }

type versionServer struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	stuck chan struct{} // Version waits for it
}

func (s *versionServer) Version(ctx context.Context, _ *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	select {
	case <-s.stuck:
		return &runtimeapi.VersionResponse{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestHealthChecks(t *testing.T) {
	address := filepath.Join(shortTempDir(t), "s.sock")
	listener, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	service := &versionServer{stuck: make(chan struct{})}
	server := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(server, service)
	go server.Serve(listener)
	defer server.Stop()

	broken := errors.New("it is gone")
	monitorErr := broken
	s := &surface{Health: &monitoring.Health{}}
	disconnect, err := addHealthChecks(config.Config{Address: address}, s, fakeInfo(func(context.Context) (monitor.Info, error) {
		return monitor.Info{}, monitorErr
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer disconnect()
	s.Health.SetServing(true)

	results := func(timeout time.Duration) map[string]error {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		found := map[string]error{}
		for _, r := range s.Health.Results(ctx) {
			found[r.Name] = r.Err
		}
		return found
	}
	if found := results(2 * time.Second); !errors.Is(found["monitor"], broken) || found["cri"] == nil {
		t.Errorf("monitor gone and calls stuck: %v", found)
	}
	monitorErr = nil
	close(service.stuck)
	if found := results(patience); len(found) != 3 || found["monitor"] != nil || found["cri"] != nil {
		t.Errorf("all well: %v", found)
	}
	server.Stop()
	if found := results(patience); found["cri"] == nil {
		t.Error("healthy without a server")
	}
}
