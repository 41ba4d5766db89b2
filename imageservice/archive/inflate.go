package archive

import (
	"bufio"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/berth-cri/berth/imageservice/content"
)

// Inflate reads the archive in a layer's blob, whatever its compression, and fails with
// content.ErrCorrupt at the end of one that has not the DiffID. The caller must call end.
func Inflate(blob io.Reader, diffID digest.Digest) (plain io.Reader, end func(), err error) {
	b := bufio.NewReaderSize(blob, 128<<10)
	magic, _ := b.Peek(4) // what is shorter is not compressed
	end = func() {}
	plain = b
	switch {
	case len(magic) > 2 && magic[0] == 0x1f && magic[1] == 0x8b:
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, nil, fmt.Errorf("inflate layer: %w: %w", err, content.ErrCorrupt)
		}
		plain, end = z, func() { z.Close() }
	case string(magic) == "\x28\xb5\x2f\xfd":
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, fmt.Errorf("inflate layer: %w: %w", err, content.ErrCorrupt)
		}
		plain, end = z, z.Close
	}
	return content.Verify(plain, diffID), end, nil
}
