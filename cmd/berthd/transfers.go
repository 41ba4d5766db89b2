package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/cri/berthapi"
	"github.com/berth-cri/berth/imageservice"
)

// transfers serves what enters and leaves the node as archives.
type transfers struct{ images *imageservice.Service }

var _ berthapi.TransfersServer = transfers{}

// Save implements berthapi.TransfersServer.
func (t transfers) Save(ctx context.Context, req berthapi.SaveRequest, archive io.Writer) error {
	return t.images.Save(ctx, archive, req.Images, req.Docker)
}

// Load implements berthapi.TransfersServer.
func (t transfers) Load(ctx context.Context, req berthapi.LoadRequest, archive io.Reader, send func(berthapi.LoadEvent) error) error {
	if req.Platform != "" && !strings.Contains(req.Platform, "/") {
		return fmt.Errorf("platform %q is not like linux/amd64: %w", req.Platform, errdefs.ErrInvalidArgument)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	loaded, err := t.images.Load(ctx, archive, imageservice.LoadOptions{
		Repository: req.Repository, Platform: platform(req.Platform),
		Progress: func(name string) {
			if err := send(berthapi.LoadEvent{Unpacking: name}); err != nil {
				cancel(err)
			}
		},
	})
	if err != nil {
		return err
	}
	var event berthapi.LoadEvent
	for _, i := range loaded {
		event.Loaded = append(event.Loaded, berthapi.LoadedImage{ID: i.ID, Names: i.Names})
	}
	return send(event)
}
