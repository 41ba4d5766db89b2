package inflate

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// deflater decodes the deflate data of one member after the other.
type deflater interface {
	// decode moves from in to out. done tells that the member is at its end, its
	// checksum verified; in is then consumed up to the next member.
	decode(in, out []byte) (consumed, produced int, done bool, err error)
	// reset begins a member.
	reset()
	close()
}

// frames reads the headers of members and gives what is between to the library.
type frames struct {
	in   *input
	d    deflater
	open bool  // within a member
	err  error // sticky
}

// The header of a member, RFC 1952, 2.3.
const (
	flagHeaderCRC = 1 << 1
	flagExtra     = 1 << 2
	flagName      = 1 << 3
	flagComment   = 1 << 4
	flagsReserved = 0xe0

	headerSize = 10
	// maxHeaderText bounds a name or comment, as the decoder in Go does.
	maxHeaderText = 512
)

var errHeader = errors.New("invalid header")

func newFrames(in *input, d deflater) (*frames, error) {
	f := &frames{in: in, d: d}
	if err := f.header(); err != nil {
		d.close()
		return nil, in.failure(err)
	}
	return f, nil
}

// header reads a member's header. io.EOF is the end of the stream before it.
func (f *frames) header() error {
	h := headerReader{in: f.in}
	first, err := f.in.ReadByte()
	if err != nil {
		return err
	}
	h.add(first)
	fixed := [headerSize]byte{first}
	for i := 1; i < headerSize; i++ {
		fixed[i] = h.byte()
	}
	if h.err == nil && (fixed[0] != 0x1f || fixed[1] != 0x8b || fixed[2] != 8 || fixed[3]&flagsReserved != 0) {
		return errHeader
	}
	flags := fixed[3]
	if flags&flagExtra != 0 {
		n := int(h.byte()) | int(h.byte())<<8
		for range n {
			h.byte()
		}
	}
	if flags&flagName != 0 {
		h.text()
	}
	if flags&flagComment != 0 {
		h.text()
	}
	if flags&flagHeaderCRC != 0 {
		want := h.crc & 0xffff
		if got := uint32(h.byte()) | uint32(h.byte())<<8; h.err == nil && got != want {
			return fmt.Errorf("%w: checksum differs", errHeader)
		}
	}
	if h.err != nil {
		return noEOF(h.err)
	}
	f.d.reset()
	f.open = true
	return nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// headerReader reads bytes until the first error, and sums them up.
type headerReader struct {
	in  *input
	crc uint32
	err error
}

func (h *headerReader) byte() byte {
	if h.err != nil {
		return 0
	}
	b, err := h.in.ReadByte()
	if err != nil {
		h.err = err
		return 0
	}
	h.add(b)
	return b
}

func (h *headerReader) add(b byte) { h.crc = crc32.Update(h.crc, crc32.IEEETable, []byte{b}) }

// text reads up to a zero byte.
func (h *headerReader) text() {
	for range maxHeaderText {
		if b := h.byte(); b == 0 || h.err != nil {
			return
		}
	}
	h.err = errHeader
}

func (f *frames) Read(p []byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	n, err := f.read(p)
	if err != nil {
		f.err = err
	}
	return n, err
}

// read fills p as far as the stream goes.
func (f *frames) read(p []byte) (int, error) {
	total := 0
	for total < len(p) {
		if !f.open {
			switch err := f.header(); {
			case err == io.EOF:
				return total, io.EOF
			case err != nil:
				return total, f.in.failure(err)
			}
		}
		if err := f.in.fill(); err != nil && err != io.EOF {
			return total, err
		}
		// At the end of the input, there may still be output inside the library.
		consumed, produced, done, err := f.d.decode(f.in.rest, p[total:])
		f.in.rest = f.in.rest[consumed:]
		total += produced
		f.open = !done
		switch {
		case err != nil:
			return total, f.in.failure(err)
		case !done && consumed == 0 && produced == 0:
			return total, f.in.failure(io.ErrUnexpectedEOF)
		}
	}
	return total, nil
}

// Close frees the library's memory. It is idempotent.
func (f *frames) Close() error {
	if f.d != nil {
		f.d.close()
		f.d = nil
		f.err = io.ErrClosedPipe
	}
	return nil
}
