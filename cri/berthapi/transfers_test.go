package berthapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
)

// echo keeps what is loaded and saves it again.
type echo struct {
	TransfersServer // for the calls that it does not answer

	content []byte
	err     error
}

func (e *echo) Save(_ context.Context, req SaveRequest, w io.Writer) error {
	_, err := w.Write(e.content)
	return errors.Join(err, e.err)
}

func (e *echo) Load(_ context.Context, req LoadRequest, r io.Reader, send func(LoadEvent) error) (err error) {
	if err := send(LoadEvent{Unpacking: req.Repository}); err != nil || e.err != nil {
		return errors.Join(err, e.err)
	}
	if e.content, err = io.ReadAll(r); err != nil {
		return err
	}
	return send(LoadEvent{Loaded: []LoadedImage{{ID: "id", Names: []string{"a", "b"}}}})
}

func serveTransfers(t *testing.T, srv TransfersServer) *TransfersClient {
	t.Helper()
	return NewTransfersClient(dial(t, func(s *grpc.Server) { RegisterTransfers(s, srv) }))
}

func TestArchivesArriveWhole(t *testing.T) {
	srv := &echo{}
	c := serveTransfers(t, srv)
	content := bytes.Repeat([]byte("0123456789"), 3*chunkSize/10)
	var events []LoadEvent
	if err := c.Load(t.Context(), LoadRequest{Repository: "r"}, bytes.NewReader(content), func(e LoadEvent) { events = append(events, e) }); err != nil {
		t.Fatal(err)
	}
	want := []LoadEvent{{Unpacking: "r"}, {Loaded: []LoadedImage{{ID: "id", Names: []string{"a", "b"}}}}}
	if !reflect.DeepEqual(events, want) || !bytes.Equal(srv.content, content) {
		t.Errorf("events %+v, %d bytes", events, len(srv.content))
	}
	var out bytes.Buffer
	if err := c.Save(t.Context(), SaveRequest{Images: []string{"x"}}, &out); err != nil || !bytes.Equal(out.Bytes(), content) {
		t.Errorf("%v, %d bytes", err, out.Len())
	}
}

func TestErrorsOfTransfers(t *testing.T) {
	srv := &echo{err: errdefs.ErrNotFound}
	c := serveTransfers(t, srv)
	if err := c.Save(t.Context(), SaveRequest{}, io.Discard); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Error(err)
	}
	// The server gives up while the client has more to send.
	endless := io.MultiReader(bytes.NewReader(make([]byte, 8<<20)), bytes.NewReader(make([]byte, 8<<20)))
	if err := c.Load(t.Context(), LoadRequest{}, endless, func(LoadEvent) {}); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Error(err)
	}
	// What cannot be read is the client's error, and never half an archive at the server.
	srv.err = nil
	broken := errors.New("the disk is broken")
	r, w := io.Pipe()
	go func() {
		w.Write([]byte("half"))
		w.CloseWithError(broken)
	}()
	if err := c.Load(t.Context(), LoadRequest{}, r, func(LoadEvent) {}); !errors.Is(err, broken) {
		t.Error(err)
	}
}
