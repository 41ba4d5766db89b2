package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cri/berthapi"
	"github.com/berth-cri/berth/imageservice"
)

// transfers serves what enters the node as an archive and what leaves it.
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

// Push implements berthapi.TransfersServer.
func (t transfers) Push(ctx context.Context, req berthapi.PushRequest, send func(berthapi.PushEvent) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	o := imageservice.PushOptions{Target: req.Target, Progress: func(blobs []imageservice.PushedBlob) {
		if err := send(berthapi.PushEvent{Blobs: uploads(blobs)}); err != nil {
			cancel(err)
		}
	}}
	if req.Username != "" {
		o.Auth = &runtimeapi.AuthConfig{Username: req.Username, Password: req.Password}
	}
	done, err := t.images.Push(ctx, req.Image, o)
	if err != nil {
		return err
	}
	return send(berthapi.PushEvent{Target: done.Target, Digest: done.Digest.String(), Note: done.Note})
}

// uploads shows the blobs of a push as berthapi does those of a pull.
func uploads(blobs []imageservice.PushedBlob) []berthapi.Layer {
	list := make([]berthapi.Layer, len(blobs))
	for i, b := range blobs {
		list[i] = berthapi.Layer{Digest: b.Digest.String(), Total: b.Size, Done: b.Sent, State: berthapi.LayerWaiting}
		switch {
		case b.Existed:
			list[i].State = berthapi.LayerExists
		case b.Done:
			list[i].State = berthapi.LayerDone
		case b.Sent > 0:
			list[i].State = berthapi.LayerUploading
		}
	}
	return list
}

// Tag implements berthapi.TransfersServer.
func (t transfers) Tag(ctx context.Context, req berthapi.TagRequest) (berthapi.Named, error) {
	id, name, err := t.images.Tag(ctx, req.Image, req.Name)
	return berthapi.Named{ID: id, Name: name}, err
}

// Untag implements berthapi.TransfersServer.
func (t transfers) Untag(ctx context.Context, req berthapi.UntagRequest) (berthapi.Named, error) {
	id, name, err := t.images.Untag(ctx, req.Name)
	return berthapi.Named{ID: id, Name: name}, err
}
