package berthapi

import (
	"context"
	"io"

	"google.golang.org/grpc"
)

const transfersService = "berth.v1.Transfers"

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

// PushRequest asks for an image to be brought to a registry, as Target if that is not
// empty. Without a user the credentials are the node's own.
type PushRequest struct {
	Image    string `json:"image"`
	Target   string `json:"target,omitempty"`
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// PushEvent is the progress of a push; the last one has its result.
type PushEvent struct {
	Blobs []Layer `json:"blobs,omitempty"`
	// Target and Digest are what the registry has now.
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

// Named is an answer that only has an image's ID and name.
type Named struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

// TransfersServer answers the service berth.v1.Transfers.
type TransfersServer interface {
	Save(ctx context.Context, req SaveRequest, archive io.Writer) error
	Load(ctx context.Context, req LoadRequest, archive io.Reader, send func(LoadEvent) error) error
	Push(ctx context.Context, req PushRequest, send func(PushEvent) error) error
	Tag(ctx context.Context, req TagRequest) (Named, error)
	Untag(ctx context.Context, req UntagRequest) (Named, error)
}

// RegisterTransfers makes s serve berth.v1.Transfers by srv.
func RegisterTransfers(s grpc.ServiceRegistrar, srv TransfersServer) {
	desc := &grpc.ServiceDesc{ServiceName: transfersService, HandlerType: (*TransfersServer)(nil)}
	add := func(name string, serve func(ctx context.Context, srv TransfersServer, x *Exchange) error) {
		desc.Streams = append(desc.Streams, exchanges(name, serve))
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
	s.RegisterService(desc, srv)
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
type TransfersClient struct{ caller }

// NewTransfersClient returns a client on conn, which stays the caller's to close. A runtime
// that is not Berth answers codes.Unimplemented.
func NewTransfersClient(conn grpc.ClientConnInterface) *TransfersClient {
	return &TransfersClient{caller{conn, transfersService}}
}

// Save writes an archive of images to w.
func (c *TransfersClient) Save(ctx context.Context, req SaveRequest, w io.Writer) error {
	return c.download(ctx, "Save", req, w, none)
}

// Load sends an archive, and calls event with what becomes of it.
func (c *TransfersClient) Load(ctx context.Context, req LoadRequest, r io.Reader, event func(LoadEvent)) error {
	return c.exchange(ctx, "Load", req, r, each(func(e LoadEvent) error { event(e); return nil }))
}

// Push brings an image to a registry, and calls event with its progress.
func (c *TransfersClient) Push(ctx context.Context, req PushRequest, event func(PushEvent)) error {
	return c.download(ctx, "Push", req, io.Discard, each(func(e PushEvent) error { event(e); return nil }))
}

// Tag gives an image another name.
func (c *TransfersClient) Tag(ctx context.Context, req TagRequest) (Named, error) {
	return c.ask(ctx, "Tag", req)
}

// Untag takes a name away.
func (c *TransfersClient) Untag(ctx context.Context, req UntagRequest) (Named, error) {
	return c.ask(ctx, "Untag", req)
}

func (c *TransfersClient) ask(ctx context.Context, method string, req any) (answer Named, err error) {
	err = c.download(ctx, method, req, io.Discard, each(func(n Named) error { answer = n; return nil }))
	return answer, err
}
