package berthapi

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

type images struct {
	snapshots []Snapshot
	started   chan struct{}
	ended     chan error
}

func (i *images) PullProgress(ctx context.Context, ref string, send func(Snapshot) error) error {
	if ref == "endless" {
		close(i.started)
		<-ctx.Done()
		i.ended <- ctx.Err()
		return ctx.Err()
	}
	for _, s := range i.snapshots {
		s.Ref = ref
		if err := send(s); err != nil {
			return err
		}
	}
	return nil
}

func serve(t *testing.T, srv ImagesServer) *ImagesClient {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	if srv != nil {
		RegisterImages(s, srv)
	}
	go s.Serve(l)
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return NewImagesClient(conn)
}

func TestSnapshotsArriveWhole(t *testing.T) {
	want := []Snapshot{
		{Ref: "r/x:1", Layers: []Layer{{Digest: "sha256:a", Total: 1 << 40, Done: 3, State: LayerDownloading}}},
		{Ref: "r/x:1", Layers: []Layer{{Digest: "sha256:a", Total: 1 << 40, Done: 1 << 40, State: LayerDone}}},
	}
	c := serve(t, &images{snapshots: want})
	stream, err := c.PullProgress(t.Context(), "r/x:1")
	if err != nil {
		t.Fatal(err)
	}
	var got []Snapshot
	for {
		s, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, s)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("snapshots\n got %+v\nwant %+v", got, want)
	}
}

func TestOtherRuntimeAnswersUnimplemented(t *testing.T) {
	c := serve(t, nil)
	stream, err := c.PullProgress(t.Context(), "x")
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("got %v, want Unimplemented", err)
	}
}

func TestServerSeesClientLeave(t *testing.T) {
	srv := &images{started: make(chan struct{}), ended: make(chan error, 1)}
	c := serve(t, srv)
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := c.PullProgress(ctx, "endless")
	if err != nil {
		t.Fatal(err)
	}
	<-srv.started
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("got %v, want Canceled", err)
	}
	if err := <-srv.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("server saw %v, want context.Canceled", err)
	}
}
