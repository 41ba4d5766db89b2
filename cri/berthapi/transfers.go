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

// TransfersServer answers the service berth.v1.Transfers.
type TransfersServer interface {
	Save(ctx context.Context, req SaveRequest, archive io.Writer) error
	Load(ctx context.Context, req LoadRequest, archive io.Reader, send func(LoadEvent) error) error
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
	s.RegisterService(desc, srv)
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
