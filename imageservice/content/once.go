package content

import (
	"io"

	"golang.org/x/sys/unix"
)

// onceWindow is how much of a blob that is read once stays in the page cache.
const onceWindow = 1 << 20

// Once returns the blob to be read from its beginning by one who is not followed soon by
// others: what is read leaves the page cache, which is for what running pods read there.
// To close it closes the blob.
func (b *Blob) Once() io.ReadCloser { return &once{b: b} }

type once struct {
	b             *Blob
	read, dropped int64
}

func (o *once) Read(p []byte) (int, error) {
	n, err := o.b.Read(p)
	o.read += int64(n)
	if end := o.read / onceWindow * onceWindow; end > o.dropped {
		o.drop(end - o.dropped)
		o.dropped = end
	}
	if err != nil {
		o.drop(0) // to the end
	}
	return n, err
}

func (o *once) drop(n int64) {
	_ = unix.Fadvise(int(o.b.Fd()), o.dropped, n, unix.FADV_DONTNEED) // a hint
}

func (o *once) Close() error { return o.b.Close() }
