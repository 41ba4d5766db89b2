// Package inflate decompresses gzip streams: with the ISA-L library where the
// machine has it (libisal.so.2, Debian's libisal2), which takes a third of the
// time, else with Go code. Both accept and refuse the same streams.
//
// The library is looked for when it is first needed, not linked: a node without
// it runs the same program. It is given nothing but deflate data; the frame
// around it, which holds names and comments, is read here.
package inflate

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
)

// Source hands out a stream piece by piece, without copying.
type Source interface {
	// Next returns the next piece, which is not empty and stays as it is until the
	// next call, or io.EOF at the end.
	Next() ([]byte, error)
}

// ErrCorrupt marks a stream that is not gzip, is damaged, or ends early.
var ErrCorrupt = errors.New("gzip stream is damaged")

// Mode chooses the decoder.
type Mode int

const (
	// Auto is the library where it is there.
	Auto Mode = iota
	// Go is the decoder in Go, whatever the machine has.
	Go
)

// Gzip returns a reader of what the gzip members in src hold. The caller must
// Close it. Errors of src are returned as they are, the rest are ErrCorrupt.
func Gzip(src Source, mode Mode) (io.ReadCloser, error) {
	in := &input{src: src}
	if mode == Auto {
		if d := newNative(); d != nil {
			return newFrames(in, d)
		}
	}
	return newPortable(in)
}

// Native tells whether Auto means the library on this machine.
func Native() bool { return nativeFound() }

// input turns a Source into what both decoders read from.
type input struct {
	src  Source
	rest []byte // not yet consumed, of the current piece
	err  error  // of src, but not io.EOF
}

// fill sees to it that rest is not empty; io.EOF is the end of src.
func (in *input) fill() error {
	for len(in.rest) == 0 {
		piece, err := in.src.Next()
		if err != nil {
			if err != io.EOF {
				in.err = err
			}
			return err
		}
		in.rest = piece
	}
	return nil
}

func (in *input) Read(p []byte) (int, error) {
	if err := in.fill(); err != nil {
		return 0, err
	}
	n := copy(p, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}

func (in *input) ReadByte() (byte, error) {
	if err := in.fill(); err != nil {
		return 0, err
	}
	b := in.rest[0]
	in.rest = in.rest[1:]
	return b, nil
}

// failure keeps an error of the source apart from one of the content.
func (in *input) failure(err error) error {
	switch {
	case in.err != nil:
		return in.err
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// portable is the decoder in Go.
type portable struct {
	in *input
	z  *gzip.Reader
}

const portableBuffer = 64 << 10

func newPortable(in *input) (io.ReadCloser, error) {
	z, err := gzip.NewReader(bufio.NewReaderSize(in, portableBuffer))
	if err != nil {
		return nil, in.failure(err)
	}
	return &portable{in: in, z: z}, nil
}

func (p *portable) Read(b []byte) (int, error) {
	n, err := p.z.Read(b)
	if err != nil && err != io.EOF {
		err = p.in.failure(err)
	}
	return n, err
}

func (p *portable) Close() error { return p.z.Close() }
