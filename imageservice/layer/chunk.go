package layer

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

const (
	chunkSize      = 256 << 10
	chunksInFlight = 3 // between two stages
)

// errUpstream tells a stage that the one before it has failed, which has
// reported its error itself.
var errUpstream = errors.New("the stage before has failed")

var chunkPool = sync.Pool{New: func() any { return &chunk{buf: make([]byte, chunkSize)} }}

// chunk is a buffer that goes back to the pool when its last user releases it.
type chunk struct {
	buf  []byte
	n    int
	refs atomic.Int32
}

func newChunk(users int32) *chunk {
	c := chunkPool.Get().(*chunk)
	c.n = 0
	c.refs.Store(users)
	return c
}

func (c *chunk) space() []byte { return c.buf }
func (c *chunk) bytes() []byte { return c.buf[:c.n] }

func (c *chunk) release() {
	if c.refs.Add(-1) == 0 {
		chunkPool.Put(c)
	}
}

// send gives c to the next stage, or releases it when the work is over.
func send(ctx context.Context, ch chan<- *chunk, c *chunk) error {
	select {
	case ch <- c:
		return nil
	case <-ctx.Done():
		c.release()
		return errUpstream
	}
}

// chunkReader reads what a stage sends.
type chunkReader struct {
	ctx  context.Context
	ch   <-chan *chunk
	cur  *chunk
	rest []byte
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Next returns the rest of what is in hand, else the next chunk, without a copy. It
// is valid until the next call.
func (r *chunkReader) Next() ([]byte, error) {
	for len(r.rest) == 0 {
		if err := r.next(); err != nil {
			return nil, err
		}
	}
	piece := r.rest
	r.rest = nil
	return piece, nil
}

// peek returns what begins the stream; less than n bytes are all there are.
func (r *chunkReader) peek(n int) ([]byte, error) {
	for len(r.rest) == 0 {
		if err := r.next(); err == io.EOF {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
	}
	// The stage before fills its chunks: a short one is the last.
	return r.rest[:min(n, len(r.rest))], nil
}

func (r *chunkReader) next() error {
	r.drop()
	select {
	case c, ok := <-r.ch:
		if !ok {
			// A stage closes its channel at its end and after its error alike.
			if r.ctx.Err() != nil {
				return errUpstream
			}
			return io.EOF
		}
		r.cur, r.rest = c, c.bytes()
		return nil
	case <-r.ctx.Done():
		return errUpstream
	}
}

func (r *chunkReader) drop() {
	if r.cur != nil {
		r.cur.release()
		r.cur, r.rest = nil, nil
	}
}

// release gives back all that is still held; the sender has ended.
func (r *chunkReader) release() {
	r.drop()
	for {
		select {
		case c, ok := <-r.ch:
			if !ok {
				return
			}
			c.release()
		default:
			return
		}
	}
}
