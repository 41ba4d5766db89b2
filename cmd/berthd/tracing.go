package main

import (
	"context"

	"google.golang.org/grpc/stats"

	"github.com/berth-cri/berth/cmd/berthd/internal/tracing"
	"github.com/berth-cri/berth/config"
)

// traces are the parts of tracing; without it stats is nil and close does nothing.
type traces struct {
	stats stats.Handler
	close func()
}

// newTracing has operations traced if the configuration names a collector.
func newTracing(ctx context.Context, cfg config.Tracing, s *surface) (traces, error) {
	if cfg.Endpoint == "" {
		return traces{close: func() {}}, nil
	}
	t, err := tracing.New(ctx, tracing.Options{
		Endpoint: cfg.Endpoint, SamplingRatePerMillion: cfg.SamplingRatePerMillion,
		Insecure: cfg.Insecure, CAFile: cfg.CAFile, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile,
		Version: version, Logger: s.Logger,
	})
	if err != nil {
		return traces{}, err
	}
	s.Operations.Trace = t.Begin
	return traces{stats: t.StatsHandler(), close: t.Close}, nil
}
