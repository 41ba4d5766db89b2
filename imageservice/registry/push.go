package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/berth-cri/berth/imageservice/reference"
)

// patience is how many StallTimeouts a host may look at a blob that it has whole.
const patience = 10

// Upload is a blob to be brought to the repository.
type Upload struct {
	Digest digest.Digest
	Size   int64
	// Open begins to read the blob; again for another attempt.
	Open func() (io.ReadCloser, error)
	// From is another repository of the registry that has the blob, or "".
	From string
	// Sent is told how many bytes of the blob have left; less than before when it has
	// to be sent again.
	Sent func(int64)
}

// target is the one host that is written to: the first that may be.
func (r *Repository) target() (*endpoint, error) {
	for _, e := range r.endpoints {
		if e.host.Push {
			return e, nil
		}
	}
	return nil, fmt.Errorf("hosts.toml allows no host the capability push: %w", errdefs.ErrFailedPrecondition)
}

// Upload brings a blob to the repository, unless that has it or the registry takes it
// from the repository u.From, which existed tells. A blob that a broken connection has cut
// is sent again from its beginning. Errors of the host are HostsError.
func (r *Repository) Upload(ctx context.Context, u Upload) (existed bool, err error) {
	err = r.write(ctx, func(ctx context.Context, e *endpoint) error {
		existed, err = r.upload(ctx, e, u)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("push blob %s: %w", u.Digest, err)
	}
	return existed, nil
}

// PutManifest puts a document under ref's tag or digest. Blobs and documents that it
// names have to be there. Errors of the host are HostsError.
func (r *Repository) PutManifest(ctx context.Context, ref reference.Reference, mediaType string, content []byte) error {
	_, err := r.putManifest(ctx, ref, mediaType, content)
	return err
}

// putManifest returns what the host has answered with.
func (r *Repository) putManifest(ctx context.Context, ref reference.Reference, mediaType string, content []byte) (http.Header, error) {
	put := message{
		method: http.MethodPut, target: "/manifests/" + ref.Identifier(), header: http.Header{"Content-Type": {mediaType}},
		open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }, size: int64(len(content)),
	}
	var answer http.Header
	err := r.write(ctx, func(ctx context.Context, e *endpoint) error {
		return r.bounded(ctx, e, func(ctx context.Context, e *endpoint) error {
			resp, err := e.expect(ctx, put, http.StatusCreated, http.StatusOK, http.StatusNoContent)
			if err != nil {
				return err
			}
			answer = resp.Header
			return resp.Body.Close()
		})
	})
	if err != nil {
		return nil, fmt.Errorf("push manifest %s: %w", ref.Identifier(), err)
	}
	return answer, nil
}

// Pushed fetches the document under a tag from the host that is written to, which others
// may be behind. Without one it is errdefs.ErrNotFound. Errors of the host are HostsError.
func (r *Repository) Pushed(ctx context.Context, ref reference.Reference, limit int64) (doc Document, err error) {
	err = r.write(ctx, func(ctx context.Context, e *endpoint) error {
		return r.bounded(ctx, e, func(ctx context.Context, e *endpoint) error {
			doc, err = e.manifest(ctx, ref, limit)
			return err
		})
	})
	if err != nil {
		return Document{}, fmt.Errorf("get manifest %s: %w", ref.Identifier(), err)
	}
	return doc, nil
}

// write calls f with the host that is written to, again as long as that may help.
func (r *Repository) write(ctx context.Context, f func(context.Context, *endpoint) error) error {
	e, err := r.target()
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		err := f(ctx, e)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if try == attempts || !retryable(err) || r.wait(ctx, try, err) != nil {
			return &HostsError{Tried: []HostError{{Host: e.String(), Err: err}}}
		}
	}
}

func (r *Repository) upload(ctx context.Context, e *endpoint, u Upload) (existed bool, err error) {
	var location string
	err = r.bounded(ctx, e, func(ctx context.Context, e *endpoint) error {
		resp, err := e.head(ctx, "/blobs/"+u.Digest.String(), nil)
		if err == nil {
			existed = true
			return resp.Body.Close()
		}
		if !errors.Is(err, errdefs.ErrNotFound) {
			return err
		}
		location, err = e.beginUpload(ctx, u)
		existed = location == ""
		return err
	})
	if err == nil && !existed {
		err = r.send(ctx, e, u, location)
	}
	return existed, err
}

// beginUpload asks where to send a blob; "" says that the registry took it from u.From.
func (e *endpoint) beginUpload(ctx context.Context, u Upload) (location string, err error) {
	begin := message{method: http.MethodPost, target: "/blobs/uploads/"}
	if u.From != "" {
		begin.target += "?" + url.Values{"mount": {u.Digest.String()}, "from": {u.From}}.Encode()
	}
	resp, err := e.expect(ctx, begin, http.StatusAccepted, http.StatusCreated)
	if err != nil {
		if u.From != "" && ctx.Err() == nil && !transient(err) {
			u.From = "" // these credentials may not read there
			return e.beginUpload(ctx, u)
		}
		return "", err
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusCreated && u.From != "" {
		return "", nil
	}
	to, err := resp.Location()
	if err != nil {
		return "", fmt.Errorf("the answer does not say where to send the blob: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if err := checkRedirect(&http.Request{URL: to}, []*http.Request{resp.Request}); err != nil {
		return "", fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	query := to.Query()
	query.Set("digest", u.Digest.String())
	to.RawQuery = query.Encode()
	return to.String(), nil
}

// send sends the whole blob in one request. The host has to take some of it within each
// StallTimeout.
func (r *Repository) send(ctx context.Context, e *endpoint, u Upload, location string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(r.opts.StallTimeout, func() { cancel(errStalled) })
	defer timer.Stop()
	put := message{method: http.MethodPut, target: location, header: http.Header{"Content-Type": {"application/octet-stream"}}, size: u.Size}
	put.open = func() (io.ReadCloser, error) {
		body, err := u.Open()
		if err != nil {
			return nil, err
		}
		return &sentBody{ReadCloser: body, read: func(sent int64, end bool) {
			timeout := r.opts.StallTimeout
			if end {
				timeout *= patience
			}
			timer.Reset(timeout)
			u.Sent(sent)
		}}, nil
	}
	resp, err := e.expect(ctx, put, http.StatusCreated, http.StatusNoContent)
	if err == nil {
		return resp.Body.Close()
	}
	if errors.Is(context.Cause(ctx), errStalled) {
		return fmt.Errorf("nothing of the blob was taken for %s: %w", r.opts.StallTimeout, errStalled)
	}
	return err
}

// sentBody tells how much of it was read.
type sentBody struct {
	io.ReadCloser
	n    int64
	read func(n int64, end bool)
}

func (b *sentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n += int64(n)
	b.read(b.n, err != nil)
	return n, err
}
