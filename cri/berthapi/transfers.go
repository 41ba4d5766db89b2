package berthapi

import (
	"context"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	transfersService = "berth.v1.Transfers"
	transfersPath    = "/" + transfersService + "/"
)

// SaveRequest asks for an archive of images.
type SaveRequest struct {
	Images []string `json:"images"`
	// Docker is the archive of docker save in place of an OCI layout.
	Docker bool `json:"docker,omitempty"`
}

// LoadRequest comes before the archive.
type LoadRequest struct {
	// Repository is that of images of which the archive has only the tag.
	Repository string `json:"repository,omitempty"`
	// Platform, as in linux/arm64, is chosen in place of the node's.
	Platform string `json:"platform,omitempty"`
}

// LoadedImage is an image that came from an archive.
type LoadedImage struct {
	ID    string   `json:"id"`
	Names []string `json:"names"`
}

// LoadEvent is an image whose layers are being unpacked, or, as the last one, all that
// came.
type LoadEvent struct {
	Unpacking string        `json:"unpacking,omitempty"`
	Loaded    []LoadedImage `json:"loaded,omitempty"`
}

// Auth are credentials for a registry; empty for the node's own.
type Auth struct {
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// PushRequest asks for an image to be brought to a registry, as Target if that is not
// empty.
type PushRequest struct {
	Image  string `json:"image"`
	Target string `json:"target,omitempty"`
	Auth   Auth   `json:"auth"`
}

// PushEvent is the progress of a push; the last one has its result.
type PushEvent struct {
	Blobs []Layer `json:"blobs,omitempty"`
	// Target and Digest are set in the last one: what the registry has now.
	Target string `json:"target,omitempty"`
	Digest string `json:"digest,omitempty"`
	// Note is what a person should know of it.
	Note string `json:"note,omitempty"`
}

// TagRequest gives an image another name.
type TagRequest struct {
	Image string `json:"image"`
	Name  string `json:"name"`
}

// UntagRequest takes a name away.
type UntagRequest struct {
	Name string `json:"name"`
}

// CommitRequest asks for an image of a container.
type CommitRequest struct {
	Container string `json:"container"`
	Image     string `json:"image"`
	Author    string `json:"author,omitempty"`
	Message   string `json:"message,omitempty"`
	// Zstd is the compression in place of gzip.
	Zstd bool `json:"zstd,omitempty"`
	// NoPause leaves the container running while its files are read.
	NoPause bool `json:"noPause,omitempty"`
}

// Named is a message that only has an image's ID and name.
type Named struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

// DiffRequest asks what a container has changed.
type DiffRequest struct {
	Container string `json:"container"`
}

// Change is a path that a container has changed: A is added, C is changed, D is deleted.
type Change struct {
	Kind string `json:"kind"`
	Path string `json:"path"`
}

// CopyRequest names a path in a container.
type CopyRequest struct {
	Container string `json:"container"`
	Path      string `json:"path"`
	// Name, of what is copied in, is the name that its top has in the archive.
	Name string `json:"name,omitempty"`
}

// TransfersServer answers the service berth.v1.Transfers.
type TransfersServer interface {
	Save(ctx context.Context, req SaveRequest, archive io.Writer) error
	Load(ctx context.Context, req LoadRequest, archive io.Reader, send func(LoadEvent) error) error
	Push(ctx context.Context, req PushRequest, send func(PushEvent) error) error
	Tag(ctx context.Context, req TagRequest) (Named, error)
	Untag(ctx context.Context, req UntagRequest) (Named, error)
	Commit(ctx context.Context, req CommitRequest) (Named, error)
	Diff(ctx context.Context, req DiffRequest, send func(Change) error) error
	// CopyOut writes a tar archive of what Path is, under its last element.
	CopyOut(ctx context.Context, req CopyRequest, archive io.Writer) error
	// CopyIn unpacks such an archive: into Path if that is a directory, else as Path.
	CopyIn(ctx context.Context, req CopyRequest, archive io.Reader) error
}

// RegisterTransfers makes s serve berth.v1.Transfers by srv.
func RegisterTransfers(s grpc.ServiceRegistrar, srv TransfersServer) {
	desc := &grpc.ServiceDesc{ServiceName: transfersService, HandlerType: (*TransfersServer)(nil)}
	add := func(name string, serve func(ctx context.Context, srv TransfersServer, x *Exchange) error) {
		desc.Streams = append(desc.Streams, grpc.StreamDesc{
			StreamName: name, ServerStreams: true, ClientStreams: true,
			Handler: func(srv any, stream grpc.ServerStream) error {
				return serve(stream.Context(), srv.(TransfersServer), &Exchange{stream: stream})
			},
		})
	}
	add("Save", func(ctx context.Context, srv TransfersServer, x *Exchange) error {
		return withRequest(x, func(req SaveRequest) error { return srv.Save(ctx, req, x) })
	})
	add("Load", func(ctx context.Context, srv TransfersServer, x *Exchange) error {
		return withRequest(x, func(req LoadRequest) error {
			return srv.Load(ctx, req, x, func(e LoadEvent) error { return x.Send(e) })
		})
	})
	add("Push", func(ctx context.Context, srv TransfersServer, x *Exchange) error {
		return withRequest(x, func(req PushRequest) error {
			return srv.Push(ctx, req, func(e PushEvent) error { return x.Send(e) })
		})
	})
	add("Tag", func(ctx context.Context, srv TransfersServer, x *Exchange) error {
		return answered(x, func(req TagRequest) (Named, error) { return srv.Tag(ctx, req) })
	})
	add("Untag", func(ctx context.Context, srv TransfersServer, x *Exchange) error {
		return answered(x, func(req UntagRequest) (Named, error) { return srv.Untag(ctx, req) })
	})
	add("Commit", func(ctx context.Context, srv TransfersServer, x *Exchange) error {
		return answered(x, func(req CommitRequest) (Named, error) { return srv.Commit(ctx, req) })
	})
	add("Diff", func(ctx context.Context, srv TransfersServer, x *Exchange) error {
		return withRequest(x, func(req DiffRequest) error {
			return srv.Diff(ctx, req, func(c Change) error { return x.Send(c) })
		})
	})
	add("CopyOut", func(ctx context.Context, srv TransfersServer, x *Exchange) error {
		return withRequest(x, func(req CopyRequest) error { return srv.CopyOut(ctx, req, x) })
	})
	add("CopyIn", func(ctx context.Context, srv TransfersServer, x *Exchange) error {
		return withRequest(x, func(req CopyRequest) error { return srv.CopyIn(ctx, req, x) })
	})
	s.RegisterService(desc, srv)
}

func withRequest[T any](x *Exchange, serve func(T) error) error {
	var req T
	if err := x.Receive(&req); err != nil {
		return err
	}
	return serve(req)
}

func answered[T any](x *Exchange, serve func(T) (Named, error)) error {
	return withRequest(x, func(req T) error {
		answer, err := serve(req)
		if err != nil {
			return err
		}
		return x.Send(answer)
	})
}

// TransfersClient calls the service berth.v1.Transfers.
type TransfersClient struct {
	conn grpc.ClientConnInterface
}

// NewTransfersClient returns a client on conn, which stays the caller's to close. A runtime
// that is not Berth answers codes.Unimplemented.
func NewTransfersClient(conn grpc.ClientConnInterface) *TransfersClient {
	return &TransfersClient{conn: conn}
}

// Save writes an archive of images to w.
func (c *TransfersClient) Save(ctx context.Context, req SaveRequest, w io.Writer) error {
	return c.download(ctx, "Save", req, w, none)
}

// CopyOut writes a tar archive of a path of a container to w.
func (c *TransfersClient) CopyOut(ctx context.Context, req CopyRequest, w io.Writer) error {
	return c.download(ctx, "CopyOut", req, w, none)
}

// Load sends an archive, and calls event with what becomes of it.
func (c *TransfersClient) Load(ctx context.Context, req LoadRequest, r io.Reader, event func(LoadEvent)) error {
	return c.exchange(ctx, "Load", req, r, each(func(e LoadEvent) error { event(e); return nil }))
}

// CopyIn sends an archive for a container.
func (c *TransfersClient) CopyIn(ctx context.Context, req CopyRequest, r io.Reader) error {
	return c.exchange(ctx, "CopyIn", req, r, none)
}

// Push brings an image to a registry, and calls event with its progress.
func (c *TransfersClient) Push(ctx context.Context, req PushRequest, event func(PushEvent)) error {
	return c.download(ctx, "Push", req, io.Discard, each(func(e PushEvent) error { event(e); return nil }))
}

// Diff calls change with all that a container has changed.
func (c *TransfersClient) Diff(ctx context.Context, req DiffRequest, change func(Change) error) error {
	return c.download(ctx, "Diff", req, io.Discard, each(change))
}

// Tag gives an image another name.
func (c *TransfersClient) Tag(ctx context.Context, req TagRequest) (Named, error) {
	return c.ask(ctx, "Tag", req)
}

// Untag takes a name away.
func (c *TransfersClient) Untag(ctx context.Context, req UntagRequest) (Named, error) {
	return c.ask(ctx, "Untag", req)
}

// Commit makes an image of a container.
func (c *TransfersClient) Commit(ctx context.Context, req CommitRequest) (Named, error) {
	return c.ask(ctx, "Commit", req)
}

func none(*structpb.Struct) error { return nil }

func each[T any](do func(T) error) func(*structpb.Struct) error {
	return func(msg *structpb.Struct) error {
		var v T
		if err := fromStruct(msg, &v); err != nil {
			return err
		}
		return do(v)
	}
}

func (c *TransfersClient) ask(ctx context.Context, method string, req any) (answer Named, err error) {
	err = c.download(ctx, method, req, io.Discard, each(func(n Named) error { answer = n; return nil }))
	return answer, err
}

// download is a call to which the client sends nothing but its request.
func (c *TransfersClient) download(ctx context.Context, method string, req any, w io.Writer, each func(*structpb.Struct) error) error {
	x, err := open(ctx, c.conn, method, req)
	if err != nil {
		return err
	}
	defer x.cancel()
	if err := x.stream.CloseSend(); err != nil {
		return err
	}
	return x.receive(w, each)
}

// exchange is a call that sends data.
func (c *TransfersClient) exchange(ctx context.Context, method string, req any, r io.Reader, each func(*structpb.Struct) error) error {
	x, err := open(ctx, c.conn, method, req)
	if err != nil {
		return err
	}
	defer x.cancel()
	sent := make(chan error, 1)
	go func() {
		err := x.upload(r)
		sent <- err
		if err != nil {
			x.cancel() // the server must not take the part for the whole
		}
	}()
	err = x.receive(io.Discard, each)
	if err != nil {
		select {
		case serr := <-sent:
			if serr != nil {
				return serr
			}
		default: // r has more to give: the server's answer counts
		}
		return err
	}
	return nil
}
