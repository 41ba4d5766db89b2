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
	// Progress, when not nil, is told the bytes as they arrive.
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
	used    []string // sources of which bytes came
	body    io.ReadCloser
	stop    context.CancelCauseFunc // of the current request
	offset  int64
	mark    int64 // offset at the last failure
	fails   int   // without progress, at the current source
	stalls  int   // at the current source
	ended   bool
	failed  HostsError
	waited  time.Duration // within the current window of the progress rule
	arrived int64

	closeOnce sync.Once
}

// source is one place that may have the blob.
type source struct {
	name string
	said fmt.Stringer // how errors call it, if not by name
	open func(ctx context.Context, offset int64) (*http.Response, error)
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
			list = append(list, source{name: e.host.String(), said: e, open: func(ctx context.Context, offset int64) (*http.Response, error) {
				return e.get(ctx, "/blobs/"+spec.Digest.String(), rangeHeader(offset, spec.Size))
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
	s := &Stream{r: r, spec: spec, sources: r.sources(spec), offset: spec.Offset, mark: spec.Offset}
	if len(s.sources) == 0 {
		return nil, fmt.Errorf("get blob %s: no host may be asked: %w", spec.Digest, errdefs.ErrFailedPrecondition)
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	return s, nil
}

func rangeHeader(offset, size int64) http.Header {
	if offset == 0 {
		return nil
	}
	return http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", offset, size-1)}}
}

// foreign is a source outside of the registry.
func (r *Repository) foreign(raw string, size int64) (source, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || u.User != nil {
		return source{}, fmt.Errorf("URL %q of a blob is not https: %w", raw, errdefs.ErrInvalidArgument)
	}
	return source{name: u.Scheme + "://" + u.Host, open: func(ctx context.Context, offset int64) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, raw, nil)
		if err != nil {
			return nil, err
		}
		for k, v := range rangeHeader(offset, size) {
			req.Header[k] = v
		}
		client := http.Client{Transport: r.endpoints[len(r.endpoints)-1].other, CheckRedirect: checkRedirect}
		resp, err := client.Do(req)
		if err != nil {
			return nil, requestError(err)
		}
		return resp, checkStatus(resp, http.StatusOK, http.StatusPartialContent)
	}}, nil
}

// Used lists the sources that bytes came from. It is for the time after the last
// Read.
func (s *Stream) Used() []string { return s.used }

// Close ends the transfer, also a Read that waits. It is idempotent.
func (s *Stream) Close() error {
	s.closeOnce.Do(func() { s.cancel(io.ErrClosedPipe) })
	return nil
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
		if s.spec.Offset > 0 && s.offset >= s.spec.Size {
			// An earlier transfer had all of it.
			s.ended = true
			return 0, io.EOF
		}
		if s.body == nil {
			if err := s.connect(); err != nil {
				if err := s.failure(err); err != nil {
					return 0, err
				}
				continue
			}
		}
		n, err := s.watchedRead(p)
		s.arrivedFrom(n)
		if s.spec.Progress != nil && n > 0 {
			s.spec.Progress(int64(n))
		}
		if n > 0 {
			return n, nil // an error comes again at the next Read
		}
		if err == io.EOF {
			if s.offset == s.spec.Size {
				return 0, io.EOF
			}
			err = fmt.Errorf("ended after %d of %d bytes: %w: %w", s.offset, s.spec.Size, io.ErrUnexpectedEOF, layer.ErrCorrupt)
		} else if err != nil && !errors.Is(err, errStalled) {
			err = requestError(err)
		}
		if err != nil {
			if err := s.failure(err); err != nil {
				return 0, err
			}
		}
	}
}

// arrivedFrom counts n bytes of the current source.
func (s *Stream) arrivedFrom(n int) {
	s.offset += int64(n)
	name := s.sources[s.current].name
	if n > 0 && (len(s.used) == 0 || s.used[len(s.used)-1] != name) {
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
	resp, err := s.sources[s.current].open(ctx, s.offset)
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
	s.waited, s.arrived = 0, 0
	want := s.spec.Size
	if resp.StatusCode == http.StatusPartialContent {
		want -= s.offset
	}
	if resp.ContentLength >= 0 && resp.ContentLength != want {
		return fmt.Errorf("sends %d bytes where the manifest means %d: %w", resp.ContentLength, want, layer.ErrCorrupt)
	}
	if s.offset == 0 {
		return nil
	}
	if resp.StatusCode == http.StatusPartialContent {
		return s.checkRange(resp)
	}
	return s.skip(s.offset)
}

func (s *Stream) checkRange(resp *http.Response) error {
	var from int64
	if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || from != s.offset {
		return fmt.Errorf("asked for bytes from %d, got %q: %w", s.offset, resp.Header.Get("Content-Range"), layer.ErrCorrupt)
	}
	return nil
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

// watchedRead keeps the rule of progress: within each StallTimeout spent waiting
// for the network, at least MinProgress bytes. Time that our own side takes does
// not count.
func (s *Stream) watchedRead(p []byte) (int, error) {
	limit := s.r.opts.StallTimeout
	stop := s.stop
	timer := time.AfterFunc(limit-s.waited, func() { stop(errStalled) })
	start := time.Now()
	n, err := s.body.Read(p)
	stalled := !timer.Stop()
	s.waited += time.Since(start)
	s.arrived += int64(n)
	switch {
	case s.arrived >= s.r.opts.MinProgress:
		s.waited, s.arrived = 0, 0
		if stalled && err == nil {
			err = io.ErrUnexpectedEOF // cancelled just when the bytes came
		}
	case stalled || s.waited >= limit:
		return n, fmt.Errorf("%d bytes within %s: %w", s.arrived, limit, errStalled)
	}
	return n, err
}

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
