package main

import (
	"context"

	"github.com/berth-cri/berth/config"
	"github.com/berth-cri/berth/imageservice"
	"github.com/berth-cri/berth/imageservice/noderegistry"
)

// newNodeRegistry returns what serves the node's images to other nodes; it does
// nothing if the configuration has no address for it.
func newNodeRegistry(cfg config.Serve, images *imageservice.Service, s *surface) (func(context.Context) error, error) {
	if cfg.Address == "" {
		return func(context.Context) error { return nil }, nil
	}
	server, err := images.NodeRegistry(noderegistry.Options{
		Address:      cfg.Address,
		Repositories: cfg.Repositories,
		TLSCert:      cfg.TLSCert,
		TLSKey:       cfg.TLSKey,
		ClientCA:     cfg.ClientCA,
		TokensFile:   cfg.TokensFile,
		MaxTransfers: cfg.MaxTransfers,
		Bandwidth:    cfg.Bandwidth,
		Registry:     s.Registry,
		Logger:       s.Logger,
	})
	if err != nil {
		return nil, err
	}
	s.Logger.Info("serving images to other nodes", "address", server.Addr().String(), "repositories", cfg.Repositories)
	return server.Run, nil
}
