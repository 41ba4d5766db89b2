package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/berth-cri/berth/imageservice/layer"
)

// A large blob is fetched over several connections where one of them is what the
// pull waits for: many hosts give a connection a share of their bandwidth, and over
// a long way a connection gets no faster than its window. Where the machine is
// slower than one connection, as beside a registry on the same network, others
// would only cost.
//
// The blob is cut into parts. Each connection takes the next part that nobody
// fetches, and writes it to the spool, which is a file; the reader follows in order.
// So the memory in use does not depend on how far they are ahead, and what has
// arrived survives the process.
const (
	defaultConnections = 4
	// partSize is what one request asks for: long enough for the way there and back
	// to be short beside it, short enough for the reader to follow closely.
	partSize = 8 << 20
	// maxAhead bounds what lies in the spool before its turn.
	maxAhead = 64 << 20
	// splitAfter is how long a transfer must have waited for the network, which
	// must be half of its time, and splitFloor how much must be left of it.
	splitAfter = time.Second
	splitFloor = 2 * partSize
	partBuffer = 128 << 10
)

// Spool holds bytes of a blob at their offsets. It is for concurrent use.
type Spool interface {
	io.ReaderAt
	io.WriterAt
}

// Extent is the bytes of a blob from From up to To, without the one there.
type Extent struct{ From, To int64 }

// errNoRanges marks a host that sends a blob whole when asked for a part.
var errNoRanges = errors.New("sends the whole blob when asked for a part")

// part is what one request asks for.
type part struct{ from, to, at int64 } // at is up to where it is in the spool

// ranges fetches the parts of a blob.
type ranges struct {
	s      *Stream
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex // guards the rest
	moved  sync.Cond
	parts  []*part // in order
	first  int     // the reader's
	next   int     // the first that is nobody's yet
	broken error
}

// startRanges fetches what is not in the spool from offset on.
func (s *Stream) startRanges(ctx context.Context, offset int64) *ranges {
	g := &ranges{s: s, parts: cut(offset, s.spec.Size, s.have)}
	g.ctx, g.cancel = context.WithCancel(ctx)
	g.moved.L = &g.mu
	context.AfterFunc(g.ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.moved.Broadcast()
	})
	for range s.r.opts.Connections {
		g.wg.Go(g.work)
	}
	return g
}

// cut divides what is between from and to into parts, at multiples of partSize and
// around what is in the spool.
func cut(from, to int64, have []Extent) []*part {
	var parts []*part
	missing := func(end int64) {
		for from < end {
			next := min(end, (from/partSize+1)*partSize)
			parts = append(parts, &part{from: from, to: next, at: from})
			from = next
		}
	}
	for _, h := range have {
		if h.To <= from {
			continue
		}
		missing(min(h.From, to))
		if there := min(h.To, to); there > from {
			parts = append(parts, &part{from: from, to: there, at: there})
			from = there
		}
	}
	missing(to)
	return parts
}

// read reads what lies at offset, which only grows, waiting until it is there. An
// error says that it does not come.
func (g *ranges) read(p []byte, offset int64) (int, error) {
	g.mu.Lock()
	for g.parts[g.first].to <= offset {
		g.first++
		g.moved.Broadcast()
	}
	now := g.parts[g.first]
	for now.at <= offset && g.broken == nil && g.ctx.Err() == nil {
		g.moved.Wait()
	}
	there, err := now.at-offset, g.broken
	g.mu.Unlock()
	if there > 0 {
		n, err := g.s.spec.Spool.ReadAt(p[:min(int64(len(p)), there)], offset)
		if n > 0 {
			return n, nil
		}
		return 0, fmt.Errorf("read what has arrived: %w", err)
	}
	if err == nil {
		err = context.Cause(g.ctx)
	}
	return 0, err
}

// end stops the fetching, and tells what is in the spool behind offset.
func (g *ranges) end(offset int64) []Extent {
	g.cancel()
	g.wg.Wait()
	var have []Extent
	for _, p := range g.parts[g.first:] {
		if p.at <= max(p.from, offset) {
			continue
		}
		if last := len(have) - 1; last >= 0 && have[last].To == p.from {
			have[last].To = p.at
		} else {
			have = append(have, Extent{From: p.from, To: p.at})
		}
	}
	return have
}

// take returns the next part to fetch, when it is near enough to the reader; nil
// when there is nothing left to do.
func (g *ranges) take() *part {
	g.mu.Lock()
	defer g.mu.Unlock()
	for {
		for g.next < len(g.parts) && g.parts[g.next].at == g.parts[g.next].to {
			g.next++
		}
		if g.next == len(g.parts) || g.broken != nil || g.ctx.Err() != nil {
			return nil
		}
		p := g.parts[g.next]
		if p.to-g.parts[g.first].from <= maxAhead || g.next == g.first {
			g.next++
			return p
		}
		g.moved.Wait()
	}
}

func (g *ranges) work() {
	buf := make([]byte, partBuffer)
	for p := g.take(); p != nil; p = g.take() {
		if err := g.fetch(p, buf); err != nil {
			g.mu.Lock()
			if g.broken == nil {
				g.broken = err
			}
			g.moved.Broadcast()
			g.mu.Unlock()
			g.cancel()
			return
		}
	}
}

// fetch brings one part, from the present source or one after it.
func (g *ranges) fetch(p *part, buf []byte) error {
	var failed HostsError
	for _, src := range g.s.sources[g.s.current:] {
		err := g.fetchFrom(src, p, buf)
		if err == nil {
			return nil
		}
		if g.ctx.Err() != nil || errors.Is(err, errSpool) {
			return err
		}
		failed.Tried = append(failed.Tried, HostError{Host: src.String(), Err: err})
	}
	return &failed
}

// fetchFrom brings the rest of one part from one source, whose troubles with this
// part are not those of others.
func (g *ranges) fetchFrom(src source, p *part, buf []byte) error {
	for fails := 1; ; fails++ {
		before := p.at
		err := g.request(src, p, buf)
		if err == nil || g.ctx.Err() != nil || errors.Is(err, errSpool) {
			return err
		}
		if p.at-before >= g.s.minProgress() {
			fails = 1
		}
		again := fails < attempts && retryable(err)
		if errors.Is(err, errStalled) {
			again = fails == 1
		}
		if !again {
			return err
		}
		g.s.r.opts.Logger.Debug("part of a blob is fetched again", "blob", g.s.spec.Digest, "host", src.name, "offset", p.at, "error", err)
		if werr := g.s.r.wait(g.ctx, fails, err); werr != nil {
			return err
		}
	}
}

// errSpool marks that the trouble is here, not at a host.
var errSpool = errors.New("keep what has arrived")

func (g *ranges) request(src source, p *part, buf []byte) error {
	ctx, stop := context.WithCancelCause(context.WithValue(g.ctx, ownConnection{}, true))
	defer stop(nil)
	limit := g.s.r.opts.StallTimeout
	timer := time.AfterFunc(limit, func() { stop(errStalled) })
	resp, err := src.open(ctx, p.at, p.to)
	timer.Stop()
	if err != nil {
		if errors.Is(context.Cause(ctx), errStalled) {
			err = fmt.Errorf("no answer within %s: %w", limit, errStalled)
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusPartialContent {
		return errNoRanges
	}
	if err := checkRange(resp, p.at, p.to, g.s.spec.Size); err != nil {
		return err
	}
	watched := watch{limit: limit, least: g.s.minProgress()}
	for p.at < p.to {
		n, err := watched.read(resp.Body, stop, buf[:min(int64(len(buf)), p.to-p.at)])
		if n > 0 {
			if _, werr := g.s.spec.Spool.WriteAt(buf[:n], p.at); werr != nil {
				return fmt.Errorf("%w: %w", errSpool, werr)
			}
			g.arrived(src, p, n)
		}
		if p.at == p.to {
			return nil
		}
		if err == io.EOF {
			err = fmt.Errorf("ended at %d of a part up to %d: %w: %w", p.at, p.to, io.ErrUnexpectedEOF, layer.ErrCorrupt)
		} else if err != nil && !errors.Is(err, errStalled) {
			err = requestError(err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (g *ranges) arrived(src source, p *part, n int) {
	g.mu.Lock()
	p.at += int64(n)
	if p == g.parts[g.first] {
		g.moved.Broadcast()
	}
	g.mu.Unlock()
	g.s.use(src.name)
	g.s.progress(n)
}

// minProgress is the least that a connection must bring within the time that the
// rule of progress gives it: together they must bring what one alone would.
func (s *Stream) minProgress() int64 {
	return max(1, s.r.opts.MinProgress/int64(s.r.opts.Connections))
}

// checkRange compares what a host says that it sends with what it was asked for.
func checkRange(resp *http.Response, from, to, size int64) error {
	var first, last int64
	said := resp.Header.Get("Content-Range")
	var total string
	n, _ := fmt.Sscanf(said, "bytes %d-%d/%s", &first, &last, &total)
	if n != 3 || first != from || last != to-1 || total != "*" && total != fmt.Sprint(size) {
		return fmt.Errorf("asked for bytes %d-%d of %d, got %q: %w", from, to-1, size, said, layer.ErrCorrupt)
	}
	if resp.ContentLength >= 0 && resp.ContentLength != to-from {
		return fmt.Errorf("sends %d bytes of a part of %d: %w", resp.ContentLength, to-from, layer.ErrCorrupt)
	}
	return nil
}

// ownConnection is the context's key for requests that must not share a connection
// with others, as those of HTTP/2 do.
type ownConnection struct{}

// watch keeps the rule of progress for one body: within each limit spent waiting for
// the network, at least so many bytes. Time that our own side takes does not count.
type watch struct {
	limit  time.Duration
	least  int64
	waited time.Duration // since the last time that there was enough
	came   int64         // meanwhile
	total  time.Duration // waited in all
}

func (w *watch) read(body io.Reader, stop context.CancelCauseFunc, p []byte) (int, error) {
	timer := time.AfterFunc(w.limit-w.waited, func() { stop(errStalled) })
	start := time.Now()
	n, err := body.Read(p)
	stalled := !timer.Stop()
	took := time.Since(start)
	w.waited += took
	w.total += took
	w.came += int64(n)
	switch {
	case w.came >= w.least:
		w.waited, w.came = 0, 0
		if stalled && err == nil {
			err = io.ErrUnexpectedEOF // cancelled just when the bytes came
		}
	case stalled || w.waited >= w.limit:
		return n, fmt.Errorf("%d bytes within %s: %w", w.came, w.limit, errStalled)
	}
	return n, err
}
