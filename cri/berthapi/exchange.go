package berthapi

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// chunkSize is the most data in one message.
const chunkSize = 512 << 10

// An Exchange is one call of berth.v1.Transfers or berth.v1.Containers: a request, then data
// from the client, or data and messages from the server, in any number. Each message on the wire is a
// google.protobuf.Any that holds a Struct, or a BytesValue with data. It is for one
// goroutine in each direction.
type Exchange struct {
	stream interface {
		SendMsg(any) error
		RecvMsg(any) error
	}
	rest []byte // received and not yet read
}

// Send sends a message.
func (x *Exchange) Send(v any) error {
	msg, err := toStruct(v)
	if err != nil {
		return err
	}
	frame, err := anypb.New(msg)
	if err != nil {
		return fmt.Errorf("encode %T: %w", v, err)
	}
	return x.stream.SendMsg(frame)
}

// Write implements io.Writer: it sends data.
func (x *Exchange) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); {
		n := min(len(p)-sent, chunkSize)
		frame, err := anypb.New(wrapperspb.Bytes(p[sent : sent+n]))
		if err != nil {
			return sent, err
		}
		if err := x.stream.SendMsg(frame); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}

// next receives a message or data; one of the two is not nil. The end is io.EOF.
func (x *Exchange) next() (*structpb.Struct, []byte, error) {
	var frame anypb.Any
	if err := x.stream.RecvMsg(&frame); err != nil {
		return nil, nil, err
	}
	inner, err := frame.UnmarshalNew()
	if err != nil {
		return nil, nil, fmt.Errorf("decode message: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	switch m := inner.(type) {
	case *structpb.Struct:
		return m, nil, nil
	case *wrapperspb.BytesValue:
		return nil, append([]byte{}, m.Value...), nil
	}
	return nil, nil, fmt.Errorf("message is a %s: %w", frame.TypeUrl, errdefs.ErrInvalidArgument)
}

// Receive receives a message.
func (x *Exchange) Receive(v any) error {
	msg, _, err := x.next()
	if err != nil {
		return err
	}
	if msg == nil {
		return fmt.Errorf("data where a message was to come: %w", errdefs.ErrInvalidArgument)
	}
	if err := fromStruct(msg, v); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Read implements io.Reader: it receives data, and nothing else may come.
func (x *Exchange) Read(p []byte) (int, error) {
	for len(x.rest) == 0 {
		msg, data, err := x.next()
		if err != nil {
			return 0, err
		}
		if msg != nil {
			return 0, fmt.Errorf("a message where data was to come: %w", errdefs.ErrInvalidArgument)
		}
		x.rest = data
	}
	n := copy(p, x.rest)
	x.rest = x.rest[n:]
	return n, nil
}

// exchanges describes a method that is one.
func exchanges[S any](name string, serve func(ctx context.Context, srv S, x *Exchange) error) grpc.StreamDesc {
	return grpc.StreamDesc{
		StreamName: name, ServerStreams: true, ClientStreams: true,
		Handler: func(srv any, stream grpc.ServerStream) error {
			return serve(stream.Context(), srv.(S), &Exchange{stream: stream})
		},
	}
}

func withRequest[T any](x *Exchange, serve func(T) error) error {
	var req T
	if err := x.Receive(&req); err != nil {
		return err
	}
	return serve(req)
}

// caller makes the calls of a service whose methods are exchanges.
type caller struct {
	conn    grpc.ClientConnInterface
	service string
}

// call is the client's side of an exchange.
type call struct {
	Exchange
	stream grpc.ClientStream
	cancel context.CancelFunc
}

// open begins a call.
func (c caller) open(ctx context.Context, method string, request any) (*call, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/"+c.service+"/"+method)
	if err != nil {
		cancel()
		return nil, err
	}
	x := &call{Exchange: Exchange{stream: stream}, stream: stream, cancel: cancel}
	if err := x.Send(request); err != nil && !errors.Is(err, io.EOF) {
		cancel()
		return nil, err
	}
	return x, nil
}

// upload sends all of r. That the server no longer listens is no error here: its answer
// says why.
func (c *call) upload(r io.Reader) error {
	buf := make([]byte, chunkSize)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, serr := c.Write(buf[:n]); errors.Is(serr, io.EOF) {
				return nil
			} else if serr != nil {
				return serr
			}
		}
		if err == io.EOF {
			return c.stream.CloseSend()
		}
		if err != nil {
			return err
		}
	}
}

// receive takes what the server sends, until its end: data goes to w, messages to each.
func (c *call) receive(w io.Writer, each func(*structpb.Struct) error) error {
	for {
		msg, data, err := c.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if msg != nil {
			err = each(msg)
		} else {
			_, err = w.Write(data)
		}
		if err != nil {
			return err
		}
	}
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

// download is a call to which the client sends nothing but its request.
func (c caller) download(ctx context.Context, method string, req any, w io.Writer, each func(*structpb.Struct) error) error {
	x, err := c.open(ctx, method, req)
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
func (c caller) exchange(ctx context.Context, method string, req any, r io.Reader, each func(*structpb.Struct) error) error {
	x, err := c.open(ctx, method, req)
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
