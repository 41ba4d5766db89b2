package main

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/berth-cri/berth/config"
)

// run makes the daemon's parts, in the order in which they need each other, and
// serves them until ctx ends.
func run(ctx context.Context, cfg config.Config, s *surface) error {
	server := grpc.NewServer(grpc.ChainStreamInterceptor(endStreams(ctx)))
	healthpb.RegisterHealthServer(server, health.NewServer())
	return s.Serve(ctx, server)
}
