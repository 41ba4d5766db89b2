package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/berth-cri/berth/imageservice/layer"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// BlobSpec says which blob to stream.
type BlobSpec struct {
	Digest digest.Digest
	Size   int64
	// URLs are where the manifest says that the blob is as well. They are asked
	// last, over https, without credentials.
	URLs []string
	// Only, when not empty, is the one source to use, of those that Sources lists.
	Only string
	// Offset is where to begin: what is before is there.
	Offset int64
	// Spool, when not nil, is where parts of a large blob may be put that arrive
	// before their turn. Have is what is there already behind Offset, in order.
	Spool Spool
	Have  []Extent
	// Progress, when not nil, is told the bytes as they arrive, by several
	// goroutines.
	Progress func(int64)
}

// Stream is a blob that goes on at another connection, or host, when one breaks.
// Its content is not verified: that is the reader's part. It is for one
// goroutine, but may be closed by another.
type Stream struct {
	r      *Repository
	spec   BlobSpec
	ctx    context.Context
	cancel context.CancelCauseFunc

	sources []source
	current int
	body    io.ReadCloser
	stop    context.CancelCauseFunc // of the current request
	watch   watch                   // of the current body
	offset  int64
	mark    int64 // offset at the last failure
	fails   int   // without progress, at the current source
	stalls  int   // at the current source
	ended   bool
	failed  HostsError

	have    []Extent // in the spool, behind offset
	spooled bool     // the last Read was of the spool
	ranges  *ranges  // nil while one connection does
	whole   bool     // one connection must do
	opened  time.Time
	began   int64 // offset at which body begins

	mu   sync.Mutex // guards used
	used []string   // sources of which bytes came

	closeOnce sync.Once
}

// source is one place that may have the blob.
type source struct {
	name string
	said fmt.Stringer // how errors call it, if not by name
	// open asks for the bytes from one offset up to, without, another.
	open func(ctx context.Context, from, to int64) (*http.Response, error)
}

func (s source) String() string {
	if s.said != nil {
		return s.said.String()
	}
	return s.name
}

// Sources lists where a blob may come from, in the order in which it is tried.
func (r *Repository) Sources(spec BlobSpec) []string {
	var names []string
	for _, src := range r.sources(spec) {
		names = append(names, src.name)
	}
	return names
}

func (r *Repository) sources(spec BlobSpec) []source {
	var list []source
	for _, e := range r.endpoints {
		if e.host.Pull {
			list = append(list, source{name: e.host.String(), said: e, open: func(ctx context.Context, from, to int64) (*http.Response, error) {
				return e.get(ctx, "/blobs/"+spec.Digest.String(), rangeHeader(from, to, spec.Size))
			}})
		}
	}
	for _, u := range spec.URLs {
		if src, err := r.foreign(u, spec.Size); err == nil {
			list = append(list, src)
		}
	}
	if spec.Only != "" {
		list = slices.DeleteFunc(list, func(s source) bool { return s.name != spec.Only })
	}
	return list
}

// Stream prepares to read a blob; it connects at the first Read.
func (r *Repository) Stream(ctx context.Context, spec BlobSpec) (*Stream, error) {
	s := &Stream{r: r, spec: spec, sources: r.sources(spec), offset: spec.Offset, mark: spec.Offset, have: spec.Have}
	s.whole = spec.Spool == nil || r.opts.Connections < 2
	if len(s.sources) == 0 {
		return nil, fmt.Errorf("get blob %s: no host may be asked: %w", spec.Digest, errdefs.ErrFailedPrecondition)
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	return s, nil
}

func rangeHeader(from, to, size int64) http.Header {
	if from == 0 && to == size {
		return nil
	}
	return http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", from, to-1)}}
}

// foreign is a source outside of the registry.
func (r *Repository) foreign(raw string, size int64) (source, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || u.User != nil {
		return source{}, fmt.Errorf("URL %q of a blob is not https: %w", raw, errdefs.ErrInvalidArgument)
	}
	return source{name: u.Scheme + "://" + u.Host, open: func(ctx context.Context, from, to int64) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, raw, nil)
		if err != nil {
			return nil, err
		}
		for k, v := range rangeHeader(from, to, size) {
			req.Header[k] = v
		}
		client := http.Client{Transport: r.endpoints[len(r.endpoints)-1].elsewhere(ctx), CheckRedirect: checkRedirect}
		resp, err := client.Do(req)
		if err != nil {
			return nil, requestError(err)
		}
		return resp, checkStatus(resp, http.StatusOK, http.StatusPartialContent)
	}}, nil
}

// Used lists the sources that bytes came from. It is for the time after the last
// Read.
func (s *Stream) Used() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.used)
}

// Spooled tells whether what the last Read returned lies in the spool.
func (s *Stream) Spooled() bool { return s.spooled }

// Close ends the transfer, also a Read that waits. It is idempotent.
func (s *Stream) Close() error {
	s.closeOnce.Do(func() { s.cancel(io.ErrClosedPipe) })
	return nil
}

// Leave ends the transfer and returns when nothing writes to the spool any more. It
// is for who reads.
func (s *Stream) Leave() {
	s.Close()
	s.join()
}

// Read implements io.Reader. The error is a HostsError when no source could
// serve the blob to its end.
func (s *Stream) Read(p []byte) (int, error) {
	for {
		if err := s.ctx.Err(); err != nil {
			s.drop()
			return 0, context.Cause(s.ctx)
		}
		if s.ended {
			return 0, io.EOF
		}
		if s.offset >= s.spec.Size && s.body != nil {
			return s.probeEnd(p)
		}
		if s.offset >= s.spec.Size && (s.spec.Offset > 0 || s.ranges != nil || s.spooled) {
			// An earlier transfer had the end of it, or it was asked for by its
			// bounds.
			s.join()
			s.ended = true
			return 0, io.EOF
		}
		if n := s.readSpool(p); n > 0 {
			return n, nil
		}
		n, err := s.readBody(p)
		if n > 0 || err == io.EOF {
			return n, err
		}
		if err != nil {
			if err := s.failure(err); err != nil {
				return 0, err
			}
		}
	}
}

// readBody reads from the one connection, which it makes when there is none. io.EOF
// is the end of an empty blob.
func (s *Stream) readBody(p []byte) (int, error) {
	if s.body == nil {
		if err := s.connect(); err != nil {
			return 0, err
		}
	}
	if len(s.have) > 0 {
		p = p[:min(int64(len(p)), s.have[0].From-s.offset)]
	}
	n, err := s.watchedRead(p)
	s.arrivedFrom(n)
	if n > 0 {
		s.split()
		return n, nil // an error comes again at the next Read
	}
	if err == io.EOF && s.offset == s.spec.Size {
		return 0, io.EOF
	}
	if err == io.EOF {
		return 0, fmt.Errorf("ended after %d of %d bytes: %w: %w", s.offset, s.spec.Size, io.ErrUnexpectedEOF, layer.ErrCorrupt)
	}
	if err != nil && !errors.Is(err, errStalled) {
		err = requestError(err)
	}
	return 0, err
}

// readSpool reads what is in the spool at the offset, or will be.
func (s *Stream) readSpool(p []byte) int {
	var n int
	if s.ranges != nil {
		var err error
		if n, err = s.ranges.read(p, s.offset); err != nil {
			// One connection may do better: with a host that does not like parts, or
			// several requests at a time. It knows how to tell of errors, too.
			s.join()
			s.whole = true
			s.r.opts.Logger.Debug("blob is fetched over one connection", "blob", s.spec.Digest, "offset", s.offset, "error", err)
		}
	}
	if n == 0 && s.ranges == nil {
		n = s.readKept(p)
	}
	s.offset += int64(n)
	s.spooled = n > 0
	return n
}

// readKept reads what the spool has kept for one connection.
func (s *Stream) readKept(p []byte) int {
	for len(s.have) > 0 && s.have[0].To <= s.offset {
		s.have = s.have[1:]
	}
	if len(s.have) == 0 || s.have[0].From > s.offset {
		return 0
	}
	s.drop()
	n, err := s.spec.Spool.ReadAt(p[:min(int64(len(p)), s.have[0].To-s.offset)], s.offset)
	if n == 0 && err != nil {
		s.have = nil // it is fetched again
	}
	return n
}

// split goes over to several connections when one is what the reader waits for.
func (s *Stream) split() {
	left := s.spec.Size - s.offset
	if s.whole || s.watch.total < s.r.splitAfter || left < s.r.splitFloor {
		return
	}
	took := time.Since(s.opened)
	if s.watch.total < took/2 || time.Duration(float64(left)/float64(s.offset-s.began)*float64(took)) < s.r.splitAfter {
		return
	}
	s.r.opts.Logger.Debug("blob is fetched over several connections", "blob", s.spec.Digest, "offset", s.offset, "connections", s.r.opts.Connections)
	s.drop()
	s.r.opts.Split()
	s.ranges = s.startRanges(s.ctx, s.offset)
	s.have = nil
}

// join ends the several connections. What they have brought stays in the spool.
func (s *Stream) join() {
	if s.ranges != nil {
		s.have = s.ranges.end(s.offset)
		s.ranges = nil
	}
}

// arrivedFrom counts n bytes of the current source.
func (s *Stream) arrivedFrom(n int) {
	if n <= 0 {
		return
	}
	s.offset += int64(n)
	s.use(s.sources[s.current].name)
	s.progress(n)
}

func (s *Stream) progress(n int) {
	if s.spec.Progress != nil {
		s.spec.Progress(int64(n))
	}
}

// use notes a source that bytes came from.
func (s *Stream) use(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.used, name) {
		s.used = append(s.used, name)
	}
}

// probeEnd looks for bytes after the end that the manifest tells, so that a blob
// that is longer is found out.
func (s *Stream) probeEnd(p []byte) (int, error) {
	n, err := s.watchedRead(p[:1])
	s.arrivedFrom(n)
	if n > 0 {
		return n, nil
	}
	if err == nil {
		return 0, nil
	}
	// All that was asked for is here, whatever ended the connection.
	s.drop()
	s.ended = true
	return 0, io.EOF
}

// connect opens the current source at the current offset.
func (s *Stream) connect() error {
	ctx, stop := context.WithCancelCause(s.ctx)
	timer := time.AfterFunc(s.r.opts.StallTimeout, func() { stop(errStalled) })
	resp, err := s.sources[s.current].open(ctx, s.offset, s.spec.Size)
	timer.Stop()
	if err != nil {
		if errors.Is(context.Cause(ctx), errStalled) {
			err = fmt.Errorf("no answer within %s: %w", s.r.opts.StallTimeout, errStalled)
		}
		stop(nil)
		var se *statusError
		if s.offset > 0 && errors.As(err, &se) && se.status == http.StatusRequestedRangeNotSatisfiable {
			return fmt.Errorf("has no more than %d of %d bytes: %w", s.offset, s.spec.Size, layer.ErrCorrupt)
		}
		return err
	}
	s.body, s.stop = resp.Body, stop
	s.watch = watch{limit: s.r.opts.StallTimeout, least: s.r.opts.MinProgress}
	s.opened, s.began = time.Now(), s.offset
	if resp.StatusCode == http.StatusPartialContent {
		return checkRange(resp, s.offset, s.spec.Size, s.spec.Size)
	}
	if resp.ContentLength >= 0 && resp.ContentLength != s.spec.Size {
		return fmt.Errorf("sends %d bytes where the manifest means %d: %w", resp.ContentLength, s.spec.Size, layer.ErrCorrupt)
	}
	if resp.Header.Get("Accept-Ranges") == "none" {
		s.whole = true
	}
	if s.offset == 0 {
		return nil
	}
	// It knows no ranges: nothing is won by leaving out what is there.
	s.have, s.whole = nil, true
	return s.skip(s.offset)
}

// skip reads over what an earlier connection has brought, at hosts that know no
// ranges.
func (s *Stream) skip(n int64) error {
	buf := make([]byte, 64<<10)
	for n > 0 {
		m, err := s.watchedRead(buf[:min(n, int64(len(buf)))])
		n -= int64(m)
		if err != nil && n > 0 {
			return fmt.Errorf("read again what came before: %w", err)
		}
	}
	return nil
}

func (s *Stream) watchedRead(p []byte) (int, error) { return s.watch.read(s.body, s.stop, p) }

func (s *Stream) drop() {
	if s.body != nil {
		s.stop(nil)
		s.body.Close()
		s.body = nil
	}
}

// failure decides how to go on after err: at the same source, at the next one,
// or not at all, and then returns the error for the reader.
func (s *Stream) failure(err error) error {
	s.drop()
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if s.offset-s.mark >= s.r.opts.MinProgress {
		s.fails = 0
	}
	s.mark = s.offset
	s.fails++
	src := s.sources[s.current]
	again := s.fails < attempts && retryable(err)
	if errors.Is(err, errStalled) {
		// A connection can die silently; a host that lets several die is sick.
		s.stalls++
		again = s.fails == 1 && s.offset > 0 && s.stalls < attempts
	}
	if again {
		s.r.opts.Logger.Debug("fetch goes on after an error", "blob", s.spec.Digest, "host", src.name, "offset", s.offset, "error", err)
		if err := s.r.wait(s.ctx, s.fails, err); err != nil {
			return err
		}
		return nil
	}
	s.failed.Tried = append(s.failed.Tried, HostError{Host: src.String(), Err: err})
	s.fails, s.stalls = 0, 0
	if s.current++; s.current < len(s.sources) {
		return nil
	}
	return fmt.Errorf("get blob %s: %w", s.spec.Digest, &s.failed)
}

// retryable is transient for a transfer: one that was under way and broke is
// taken up again.
func retryable(err error) bool {
	return transient(err) || errors.Is(err, io.ErrUnexpectedEOF)
}
