package noderegistry

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/imageservice/reference"
)

const (
	// pieceSize is what is sent at a time: the limit of bandwidth and the deadline
	// of a client hold for each.
	pieceSize = 256 << 10
	// pieceTimeout is how long a client may take for a piece.
	pieceTimeout = 30 * time.Second
	// placeTimeout is how long a transfer waits for others to end.
	placeTimeout = 5 * time.Second
)

// serveBlob sends a configuration or a layer, or ranges of it. The bytes go from the
// file to the socket without passing through here where there is no TLS, so they are
// not verified: that is the client's part, whoever it asks.
func (s *Server) serveBlob(w http.ResponseWriter, r *http.Request, held []holding, last string) *failure {
	d, err := reference.ParseDigest(last)
	if err != nil {
		return &failure{http.StatusBadRequest, "DIGEST_INVALID", err.Error()}
	}
	if _, ok := find(held, d, holding.blobs); !ok {
		return blobUnknown(last)
	}
	if r.Method == http.MethodGet {
		if !s.takePlace(r) {
			w.Header().Set("Retry-After", "1")
			return &failure{http.StatusTooManyRequests, "TOOMANYREQUESTS", "as many blobs as allowed are being sent"}
		}
		defer s.leavePlace()
	}
	blob, err := s.images.Content().Open(d)
	if err != nil {
		if !errors.Is(err, errdefs.ErrNotFound) {
			s.log.Warn("a blob cannot be served", "blob", d, "error", err)
		}
		return blobUnknown(last)
	}
	defer blob.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", d.String())
	h.Set("ETag", strconv.Quote(d.String()))
	h.Set("Cache-Control", "max-age=31536000, immutable")
	http.ServeContent(&pacedWriter{ResponseWriter: w, s: s, r: r}, r, "", time.Time{}, blob.File)
	return nil
}

func (s *Server) takePlace(r *http.Request) bool {
	if s.transfers == nil {
		s.metrics.transfers.Inc()
		return true
	}
	timer := time.NewTimer(placeTimeout)
	defer timer.Stop()
	select {
	case s.transfers <- struct{}{}:
		s.metrics.transfers.Inc()
		return true
	case <-timer.C:
	case <-r.Context().Done():
	}
	return false
}

func (s *Server) leavePlace() {
	s.metrics.transfers.Dec()
	if s.transfers != nil {
		<-s.transfers
	}
}

// pacedWriter sends in pieces: none before the bandwidth allows it, and each within
// its time.
type pacedWriter struct {
	http.ResponseWriter
	s *Server
	r *http.Request
}

// Unwrap is for http.ResponseController.
func (p *pacedWriter) Unwrap() http.ResponseWriter { return p.ResponseWriter }

func (p *pacedWriter) Write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		piece := b[:min(len(b), pieceSize)]
		if err := p.wait(len(piece)); err != nil {
			return written, err
		}
		n, err := p.ResponseWriter.Write(piece)
		written += n
		if err != nil {
			return written, err
		}
		b = b[len(piece):]
	}
	return written, nil
}

// ReadFrom lets the kernel copy from a file, piece by piece. http.ServeContent hands
// over a part of a file as a LimitedReader, and a LimitedReader of a file is what net
// knows how to send.
func (p *pacedWriter) ReadFrom(src io.Reader) (int64, error) {
	part, ok := src.(*io.LimitedReader)
	if !ok {
		return io.Copy(struct{ io.Writer }{p}, src)
	}
	var total int64
	for part.N > 0 {
		piece := &io.LimitedReader{R: part.R, N: min(part.N, pieceSize)}
		if err := p.wait(int(piece.N)); err != nil {
			return total, err
		}
		n, err := io.Copy(p.ResponseWriter, piece)
		total += n
		part.N -= n
		if err != nil {
			return total, err
		}
		if piece.N > 0 {
			return total, nil // the file has ended
		}
	}
	return total, nil
}

func (p *pacedWriter) wait(n int) error {
	if p.s.limiter != nil {
		if err := p.s.limiter.WaitN(p.r.Context(), n); err != nil {
			return err
		}
	}
	err := http.NewResponseController(p.ResponseWriter).SetWriteDeadline(time.Now().Add(pieceTimeout))
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// countingWriter notes what was answered.
type countingWriter struct {
	http.ResponseWriter
	status int
	sent   int64
}

// Unwrap is for http.ResponseController.
func (c *countingWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *countingWriter) WriteHeader(status int) {
	c.status = status
	c.ResponseWriter.WriteHeader(status)
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.sent += int64(n)
	return n, err
}

// ReadFrom hands on to net/http, which knows how to send a file.
func (c *countingWriter) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(c.ResponseWriter, src)
	c.sent += n
	return n, err
}
