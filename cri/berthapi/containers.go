package berthapi

import (
	"context"
	"io"

	"google.golang.org/grpc"
)

const containersService = "berth.v1.Containers"

// DiffRequest asks what a container has changed of its image.
type DiffRequest struct {
	ContainerID string `json:"containerID"`
}

// Change is one path that differs from the image.
type Change struct {
	// Kind is added, changed or deleted.
	Kind string `json:"kind"`
	Path string `json:"path"`
}

// CommitRequest asks for an image of a container.
type CommitRequest struct {
	ContainerID string `json:"containerID"`
	// Name is that of the image.
	Name    string   `json:"name"`
	Author  string   `json:"author,omitempty"`
	Message string   `json:"message,omitempty"`
	Changes []string `json:"changes,omitempty"`
	// Running leaves the container running meanwhile; else it stands still, for Seconds at
	// most, 0 for two minutes.
	Running bool    `json:"running,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
}

// Committed is the image.
type Committed struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// CopyRequest is a path in a container. What is copied is an archive (tar).
type CopyRequest struct {
	ContainerID string `json:"containerID"`
	Path        string `json:"path"`
	// Top is, to copy one file or directory in, its name in the archive: the path may be
	// what it is to be called.
	Top string `json:"top,omitempty"`
}

// ContainersServer answers the service berth.v1.Containers, about the files of containers.
type ContainersServer interface {
	Diff(ctx context.Context, req DiffRequest, send func(Change) error) error
	Commit(ctx context.Context, req CommitRequest) (Committed, error)
	// CopyOut writes what is at the path, under its last name.
	CopyOut(ctx context.Context, req CopyRequest, archive io.Writer) error
	// CopyIn writes an archive into the directory at the path.
	CopyIn(ctx context.Context, req CopyRequest, archive io.Reader) error
}

// RegisterContainers makes s serve berth.v1.Containers by srv.
func RegisterContainers(s grpc.ServiceRegistrar, srv ContainersServer) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: containersService,
		HandlerType: (*ContainersServer)(nil),
		Streams: []grpc.StreamDesc{
			exchanges("Diff", func(ctx context.Context, srv ContainersServer, x *Exchange) error {
				return withRequest(x, func(req DiffRequest) error {
					return srv.Diff(ctx, req, func(c Change) error { return x.Send(c) })
				})
			}),
			exchanges("Commit", func(ctx context.Context, srv ContainersServer, x *Exchange) error {
				return withRequest(x, func(req CommitRequest) error {
					image, err := srv.Commit(ctx, req)
					if err != nil {
						return err
					}
					return x.Send(image)
				})
			}),
			exchanges("CopyOut", func(ctx context.Context, srv ContainersServer, x *Exchange) error {
				return withRequest(x, func(req CopyRequest) error { return srv.CopyOut(ctx, req, x) })
			}),
			exchanges("CopyIn", func(ctx context.Context, srv ContainersServer, x *Exchange) error {
				return withRequest(x, func(req CopyRequest) error { return srv.CopyIn(ctx, req, x) })
			}),
		},
	}, srv)
}

// ContainersClient calls the service berth.v1.Containers.
type ContainersClient struct{ caller }

// NewContainersClient returns a client on conn, which stays the caller's to close. A runtime
// that is not Berth answers codes.Unimplemented.
func NewContainersClient(conn grpc.ClientConnInterface) *ContainersClient {
	return &ContainersClient{caller{conn, containersService}}
}

// Diff calls change with what a container has changed of its image, in the order of paths.
func (c *ContainersClient) Diff(ctx context.Context, req DiffRequest, change func(Change) error) error {
	return c.download(ctx, "Diff", req, io.Discard, each(change))
}

// Commit makes an image of a container.
func (c *ContainersClient) Commit(ctx context.Context, req CommitRequest) (image Committed, err error) {
	err = c.download(ctx, "Commit", req, io.Discard, each(func(i Committed) error { image = i; return nil }))
	return image, err
}

// CopyOut writes an archive of what is at the path to w.
func (c *ContainersClient) CopyOut(ctx context.Context, req CopyRequest, w io.Writer) error {
	return c.download(ctx, "CopyOut", req, w, none)
}

// CopyIn writes the archive r into the directory at the path.
func (c *ContainersClient) CopyIn(ctx context.Context, req CopyRequest, r io.Reader) error {
	return c.exchange(ctx, "CopyIn", req, r, none)
}
