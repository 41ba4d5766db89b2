package main

import (
	"context"
	"io"
	"os"
	"time"

	"github.com/berth-cri/berth/cri/berthapi"
	"github.com/berth-cri/berth/imageservice"
	"github.com/berth-cri/berth/imageservice/idmap"
	"github.com/berth-cri/berth/imageservice/rootcopy"
	"github.com/berth-cri/berth/runtimeservice"
	"github.com/berth-cri/berth/runtimeservice/namespaces"
)

// containerFiles serves what concerns the files of containers: the runtime service knows the
// containers, and the image service what they are made of.
type containerFiles struct {
	runtime *runtimeservice.Service
	images  *imageservice.Service
}

var _ berthapi.ContainersServer = containerFiles{}

// Diff implements berthapi.ContainersServer.
func (f containerFiles) Diff(ctx context.Context, req berthapi.DiffRequest, send func(berthapi.Change) error) error {
	files, err := f.runtime.ContainerFiles(ctx, req.ContainerID)
	if err != nil {
		return err
	}
	return f.images.Changes(ctx, files.ID, written(files), func(c imageservice.Change) error {
		return send(berthapi.Change{Kind: c.Kind, Path: c.Path})
	})
}

// Commit implements berthapi.ContainersServer.
func (f containerFiles) Commit(ctx context.Context, req berthapi.CommitRequest) (berthapi.Committed, error) {
	files, err := f.runtime.ContainerFiles(ctx, req.ContainerID)
	if err != nil {
		return berthapi.Committed{}, err
	}
	o := imageservice.CommitOptions{
		WrittenOptions: written(files), Name: req.Name, Author: req.Author, Message: req.Message, Changes: req.Changes,
	}
	if !req.Running {
		longest := time.Duration(req.Seconds * float64(time.Second))
		o.Standstill = func(ctx context.Context, read func(context.Context) error) error {
			return f.runtime.Standstill(ctx, files.ID, longest, read)
		}
	}
	image, err := f.images.Commit(ctx, files.ID, o)
	return berthapi.Committed{ID: image.ID, Name: image.Name, Digest: image.Digest.String()}, err
}

// CopyOut implements berthapi.ContainersServer.
func (f containerFiles) CopyOut(ctx context.Context, req berthapi.CopyRequest, archive io.Writer) error {
	return f.withRoot(ctx, req, func(root *os.File, ids idmap.Map) error {
		return rootcopy.Out(ctx, root, req.Path, archive, ids)
	})
}

// CopyIn implements berthapi.ContainersServer.
func (f containerFiles) CopyIn(ctx context.Context, req berthapi.CopyRequest, archive io.Reader) error {
	return f.withRoot(ctx, req, func(root *os.File, ids idmap.Map) error {
		return rootcopy.In(ctx, root, req.Path, req.Top, archive, ids)
	})
}

func (f containerFiles) withRoot(ctx context.Context, req berthapi.CopyRequest, copy func(*os.File, idmap.Map) error) error {
	files, err := f.runtime.ContainerFiles(ctx, req.ContainerID)
	if err != nil {
		return err
	}
	return f.runtime.WithRoot(ctx, files.ID, func(root *os.File) error { return copy(root, idMap(files.Mapping)) })
}

func written(files runtimeservice.ContainerFiles) imageservice.WrittenOptions {
	return imageservice.WrittenOptions{Mounts: files.Mounts, IDs: idMap(files.Mapping)}
}

func idMap(m *namespaces.UserMapping) idmap.Map {
	if m == nil {
		return idmap.Map{}
	}
	return idmap.Map{UIDs: idRanges(m.UIDs), GIDs: idRanges(m.GIDs)}
}

func idRanges(ranges []namespaces.IDRange) idmap.Ranges {
	var all idmap.Ranges
	for _, r := range ranges {
		all = append(all, idmap.Range{Container: r.ContainerID, Host: r.HostID, Length: r.Length})
	}
	return all
}
