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

// dial connects to a server of what register registers.
func dial(t *testing.T, register func(*grpc.Server)) *grpc.ClientConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestSnapshotsArriveWhole(t *testing.T) {
	want := []Snapshot{
		{Ref: "r/x:1", Layers: []Layer{{Digest: "sha256:a", Total: 1 << 40, Done: 3, State: LayerDownloading}}},
		{Ref: "r/x:1", Layers: []Layer{{Digest: "sha256:a", Total: 1 << 40, Done: 1 << 40, State: LayerDone}}},
	}
	c := NewImagesClient(dial(t, func(s *grpc.Server) { RegisterImages(s, &images{snapshots: want}) }))
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
	c := NewImagesClient(dial(t, func(*grpc.Server) {}))
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
	c := NewImagesClient(dial(t, func(s *grpc.Server) { RegisterImages(s, srv) }))
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

func TestPollerFollowsOnePullToItsEnd(t *testing.T) {
	rounds := [][]Snapshot{
		nil, // not begun yet
		{{Ref: "docker.io/library/x:1"}, {Ref: "other"}},
		{{Ref: "docker.io/library/x:1", Layers: []Layer{{Digest: "sha256:a", State: LayerDone}}}},
		{{Ref: "other"}},
	}
	p := &Poller{
		Pulls: func() []Snapshot {
			now := rounds[0]
			rounds = rounds[1:]
			return now
		},
		Same: func(asked, running string) bool { return running == "docker.io/library/"+asked },
	}
	var got []Snapshot
	if err := p.PullProgress(t.Context(), "x:1", func(s Snapshot) error { got = append(got, s); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Layers != nil || len(got[1].Layers) != 1 {
		t.Errorf("got %+v, want the two snapshots of x:1", got)
	}
	if len(rounds) != 0 {
		t.Errorf("%d rounds were not asked for", len(rounds))
	}
}

func TestPollerEndsWhenNobodyListens(t *testing.T) {
	gone := errors.New("gone")
	p := &Poller{
		Pulls: func() []Snapshot { return []Snapshot{{Ref: "x"}} },
		Same:  func(asked, running string) bool { return asked == running },
	}
	if err := p.PullProgress(t.Context(), "x", func(Snapshot) error { return gone }); err != gone {
		t.Errorf("got %v, want the error of send", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.PullProgress(ctx, "y", func(Snapshot) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}
