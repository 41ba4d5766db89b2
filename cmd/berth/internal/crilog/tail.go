package crilog

import (
	"bytes"
	"fmt"
	"io"
)

const (
	blockSize = 64 << 10
	// A line's time, stream and tags are shorter than this.
	headSize = 128
)

// TailOffset returns where the last n lines of a log of the given size begin. A
// line is what the container wrote up to a line feed, however many lines of the
// file it takes; an unfinished one at the end counts. It reads backwards from
// the end, so its cost is that of the tail and not of the file.
func TailOffset(r io.ReaderAt, size int64, n int) (int64, error) {
	if n <= 0 {
		return size, nil
	}
	back := &backward{r: r, end: size}
	seen, last := 0, true
	for {
		start, end, err := back.next()
		if err == io.EOF {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		full, err := endsLine(r, start, end)
		if err != nil {
			return 0, err
		}
		if full || last {
			if seen == n {
				return end, nil
			}
			seen++
		}
		last = false
	}
}

func endsLine(r io.ReaderAt, start, end int64) (bool, error) {
	head := make([]byte, min(end-start, headSize))
	if _, err := r.ReadAt(head, start); err != nil && err != io.EOF {
		return false, fmt.Errorf("read log: %w", err)
	}
	e, err := Parse(head)
	// A line that is not in the format counts as one: it is printed as it is.
	return err != nil || !e.Partial, nil
}

// backward finds the lines of a file from its end to its beginning.
type backward struct {
	r     io.ReaderAt
	end   int64 // end of the next line to return
	block []byte
	at    int64 // offset of block
}

// next returns the range of the line before the last one, io.EOF at the
// beginning of the file.
func (b *backward) next() (start, end int64, err error) {
	if b.end == 0 {
		return 0, 0, io.EOF
	}
	end = b.end
	// The byte before end is this line's own line feed, so it is not searched.
	for pos := end - 1; ; {
		if pos <= 0 {
			b.end = 0
			return 0, end, nil
		}
		if b.block == nil || pos <= b.at {
			if err := b.load(pos); err != nil {
				return 0, 0, err
			}
		}
		if i := bytes.LastIndexByte(b.block[:pos-b.at], '\n'); i >= 0 {
			b.end = b.at + int64(i) + 1
			return b.end, end, nil
		}
		pos = b.at
	}
}

// load reads the block that ends at end.
func (b *backward) load(end int64) error {
	b.at = max(0, end-blockSize)
	b.block = make([]byte, end-b.at)
	if _, err := b.r.ReadAt(b.block, b.at); err != nil && err != io.EOF {
		return fmt.Errorf("read log: %w", err)
	}
	return nil
}
