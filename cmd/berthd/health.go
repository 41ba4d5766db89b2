package main

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berthd/internal/monitoring"
	"github.com/berth-cri/berth/config"
	"github.com/berth-cri/berth/runtimeservice/monitor"
)

// addHealthChecks says what has to work for the daemon to be called healthy; by
// that the service manager's watchdog notices one that is stuck.
func addHealthChecks(cfg config.Config, s *surface, m monitorInfo) (disconnect func() error, err error) {
	check, disconnect, err := socketHealth(cfg.Address)
	if err != nil {
		return nil, err
	}
	s.Health.Add("monitor", monitorHealth(m))
	s.Health.Add("cri", check)
	return disconnect, nil
}

// monitorInfo is what tells whether the monitor answers.
type monitorInfo interface {
	Info(ctx context.Context) (monitor.Info, error)
}

// monitorHealth fails while the monitor does not answer: nothing can be started
// or stopped then.
func monitorHealth(m monitorInfo) monitoring.Check {
	return func(ctx context.Context) error {
		if _, err := m.Info(ctx); err != nil {
			return fmt.Errorf("ask the monitor: %w", err)
		}
		return nil
	}
}

// socketHealth asks what every client of CRI asks first, the way they do. So it
// fails when calls are not taken or not answered any more. The connection is made
// when it is first used; close ends it.
func socketHealth(address string) (check monitoring.Check, closeConn func() error, err error) {
	conn, err := grpc.NewClient("unix:"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, fmt.Errorf("make a client of %q: %w", address, err)
	}
	runtime := runtimeapi.NewRuntimeServiceClient(conn)
	return func(ctx context.Context) error {
		if _, err := runtime.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
			return fmt.Errorf("call Version: %w", err)
		}
		return nil
	}, conn.Close, nil
}
