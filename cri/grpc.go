package cri

import (
	"time"

	"google.golang.org/grpc"
)

const (
	// maxMessageSize bounds requests and responses. The kubelet and crictl
	// receive up to as much.
	maxMessageSize = 16 << 20
	// maxHeaderBytes bounds the metadata of a call.
	maxHeaderBytes = 64 << 10
	// maxConcurrentCalls bounds the calls of one connection.
	maxConcurrentCalls = 1024
	// streamWorkers serve calls in place of a new goroutine for each: their
	// stacks have grown to what a handler needs. More calls at a time than
	// that still get goroutines of their own.
	streamWorkers = 8
	// ioBufferSize is that of a connection's reads and writes. CRI messages are
	// small and most connections idle; 32 KiB each, the default, is memory.
	ioBufferSize = 8 << 10
	// handshakeTimeout bounds the set-up of a connection.
	handshakeTimeout = 10 * time.Second
)

// NewGRPCServer returns a gRPC server with this server's interceptors and limits.
// The services are added by Register.
func (s *Server) NewGRPCServer() *grpc.Server {
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(newStrictCodec()),
		grpc.MaxRecvMsgSize(maxMessageSize),
		grpc.MaxSendMsgSize(maxMessageSize),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxConcurrentStreams(maxConcurrentCalls),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ReadBufferSize(ioBufferSize),
		grpc.WriteBufferSize(ioBufferSize),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.WaitForHandlers(true),
		grpc.ChainUnaryInterceptor(
			s.calls.unary,
			s.operateUnary,
			s.logUnary,
			codesUnary,
			s.recoverUnary,
			deadlineUnary,
		),
		grpc.ChainStreamInterceptor(
			s.calls.stream,
			s.operateStream,
			s.logStream,
			codesStream,
			s.recoverStream,
			s.endStream,
		),
	}
	if s.options.Stats != nil {
		options = append(options, grpc.StatsHandler(s.options.Stats))
	}
	return grpc.NewServer(options...)
}
