package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Kind tells the frames of a connection apart.
type Kind uint8

// The kinds of frame. FrameStdinClosed tells the owner that the standard input
// of a container was closed for good, so that it drops its own reference.
const (
	FrameRequest Kind = iota + 1
	FrameResponse
	FrameError
	FrameExit
	FrameGoAway
	FrameStdinClosed
)

const (
	headerSize = 16
	// MaxBody is the longest body of a frame, in bytes. The longest in
	// practice is the OCI spec of a container with a thousand mounts.
	MaxBody = 16 << 20
	// MaxFDs is how many descriptors a frame can carry.
	MaxFDs = 64
)

// header is the fixed beginning of a frame: length of the body, kind, method,
// number of descriptors, a zero byte, and the number of the request, little
// endian.
type header struct {
	length uint32
	kind   Kind
	method Method
	fds    uint8
	id     uint64
}

var errHeader = errors.New("malformed frame header")

func (h header) encode(b []byte) {
	binary.LittleEndian.PutUint32(b[0:], h.length)
	b[4] = byte(h.kind)
	b[5] = byte(h.method)
	b[6] = h.fds
	b[7] = 0
	binary.LittleEndian.PutUint64(b[8:], h.id)
}

func decodeHeader(b []byte) (header, error) {
	h := header{
		length: binary.LittleEndian.Uint32(b[0:]),
		kind:   Kind(b[4]),
		method: Method(b[5]),
		fds:    b[6],
		id:     binary.LittleEndian.Uint64(b[8:]),
	}
	switch {
	case h.length > MaxBody:
		return h, fmt.Errorf("%w: body of %d bytes", errHeader, h.length)
	case h.kind < FrameRequest || h.kind > FrameStdinClosed:
		return h, fmt.Errorf("%w: kind %d", errHeader, h.kind)
	case h.fds > MaxFDs:
		return h, fmt.Errorf("%w: %d descriptors", errHeader, h.fds)
	case b[7] != 0:
		return h, fmt.Errorf("%w: reserved byte is %d", errHeader, b[7])
	}
	return h, nil
}
