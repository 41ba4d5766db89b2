// Package registry fetches manifests and blobs of one repository from the hosts
// that serve it: in their order, with retries, resumption and limits. It also brings them
// to the one host that may be written to.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/berth-cri/berth/imageservice/hosts"
	"github.com/berth-cri/berth/imageservice/layer"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
)

// Options of a Repository. Zero values mean the defaults.
type Options struct {
	Hosts []hosts.Host // in the order to try
	// Auth goes to the registry itself only; nil is anonymous.
	Auth *authn.AuthConfig
	// MirrorAuth, when not nil, finds the credentials for a repository of a mirror, which
	// go to that mirror only, when it asks for some. It returns nil for none.
	MirrorAuth func(ctx context.Context, at reference.Reference) (*authn.AuthConfig, error)
	// StallTimeout is how long a transfer may wait without the minimum progress.
	StallTimeout time.Duration
	// MinProgress is that minimum, in bytes.
	MinProgress int64
	// Backoff is the first wait before a retry; the next ones double.
	Backoff time.Duration
	// Push asks for the right to write; MountFrom are other repositories of the same
	// registry, from which blobs may be taken then.
	Push      bool
	MountFrom []string
	// Connections is how many one large blob may be fetched over; 1 is no more than
	// one.
	Connections int
	// Split, when not nil, is told of each blob that is fetched over several.
	Split     func()
	UserAgent string
	Logger    *slog.Logger
}

const (
	defaultStallTimeout = 30 * time.Second
	defaultBackoff      = 250 * time.Millisecond
	maxBackoff          = 5 * time.Second
	// maxRetryAfter bounds the wait that a registry can ask for.
	maxRetryAfter = 20 * time.Second
	// attempts at one host for one document, or without progress of a blob.
	attempts = 3
	// defaultMinProgress must arrive within each StallTimeout of waiting.
	defaultMinProgress = 256 << 10
)

// Repository is one repository on one or several hosts. It is safe for
// concurrent use.
type Repository struct {
	ref       reference.Reference
	endpoints []*endpoint
	opts      Options
	// When a blob is fetched over several connections.
	splitAfter time.Duration
	splitFloor int64
}

// Open prepares the access to ref's repository; it does not connect. The caller
// must Close it.
func Open(ref reference.Reference, o Options) (*Repository, error) {
	if o.StallTimeout <= 0 {
		o.StallTimeout = defaultStallTimeout
	}
	if o.MinProgress <= 0 {
		o.MinProgress = defaultMinProgress
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Backoff <= 0 {
		o.Backoff = defaultBackoff
	}
	if o.Connections <= 0 {
		o.Connections = defaultConnections
	}
	if o.Split == nil {
		o.Split = func() {}
	}
	r := &Repository{ref: ref, opts: o, splitAfter: splitAfter, splitFloor: splitFloor}
	for _, h := range o.Hosts {
		e, err := newEndpoint(h, ref, o)
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("host %s: %w", h, err)
		}
		r.endpoints = append(r.endpoints, e)
	}
	return r, nil
}

// Close ends idle connections.
func (r *Repository) Close() {
	for _, e := range r.endpoints {
		e.close()
	}
}

// Document is a manifest or an index as it came.
type Document struct {
	Content   []byte
	MediaType string // what the host called it
	Digest    digest.Digest
}

// accept lists the documents that Manifest can be used for.
var accept = strings.Join([]string{
	"application/vnd.oci.image.index.v1+json",
	"application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.docker.distribution.manifest.v2+json",
	"*/*;q=0.1",
}, ", ")

// Manifest fetches the document that ref's tag or digest names. One that is
// named by digest is checked against it. check, which may be nil, may refuse a
// host's answer, so that the next host is asked.
func (r *Repository) Manifest(ctx context.Context, ref reference.Reference, limit int64, check func(Document) error) (Document, error) {
	var doc Document
	may := func(h hosts.Host) bool { return h.Pull && (h.Resolve || ref.Digest != "") }
	err := r.each(ctx, may, func(ctx context.Context, e *endpoint) error {
		var err error
		if doc, err = e.manifest(ctx, ref, limit); err == nil && check != nil {
			err = check(doc)
		}
		return err
	})
	if err != nil {
		return Document{}, fmt.Errorf("get manifest %s: %w", ref.Identifier(), err)
	}
	return doc, nil
}

func (e *endpoint) manifest(ctx context.Context, ref reference.Reference, limit int64) (Document, error) {
	resp, err := e.get(ctx, "/manifests/"+ref.Identifier(), http.Header{"Accept": {accept}})
	if err != nil {
		return Document{}, err
	}
	content, err := readDocument(resp, limit)
	if err != nil {
		return Document{}, err
	}
	doc := Document{Content: content, MediaType: mediaType(resp.Header.Get("Content-Type"))}
	doc.Digest = digest.SHA256.FromBytes(content)
	if ref.Digest != "" {
		doc.Digest = ref.Digest.Algorithm().FromBytes(content)
		if doc.Digest != ref.Digest {
			return Document{}, fmt.Errorf("answer has digest %s: %w", doc.Digest, layer.ErrCorrupt)
		}
	}
	return doc, nil
}

// Head asks what ref's tag or digest names, without fetching it. The answer is the
// host's word: it is good for a comparison with what was verified before. A host
// that does not tell is errdefs.ErrNotImplemented.
func (r *Repository) Head(ctx context.Context, ref reference.Reference) (digest.Digest, error) {
	var found digest.Digest
	may := func(h hosts.Host) bool { return h.Pull && (h.Resolve || ref.Digest != "") }
	err := r.each(ctx, may, func(ctx context.Context, e *endpoint) error {
		resp, err := e.head(ctx, "/manifests/"+ref.Identifier(), http.Header{"Accept": {accept}})
		if err != nil {
			return err
		}
		resp.Body.Close()
		found, err = reference.ParseDigest(resp.Header.Get("Docker-Content-Digest"))
		if err != nil {
			return fmt.Errorf("answer has no digest: %w", errdefs.ErrNotImplemented)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("ask for manifest %s: %w", ref.Identifier(), err)
	}
	return found, nil
}

// Blob fetches a small blob into memory and checks its digest.
func (r *Repository) Blob(ctx context.Context, d digest.Digest, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, fmt.Errorf("get blob %s: %d bytes are more than %d: %w", d, size, limit, errdefs.ErrInvalidArgument)
	}
	var content []byte
	err := r.each(ctx, pulls, func(ctx context.Context, e *endpoint) error {
		resp, err := e.get(ctx, "/blobs/"+d.String(), nil)
		if err != nil {
			return err
		}
		if content, err = readDocument(resp, limit); err != nil {
			return err
		}
		if got := d.Algorithm().FromBytes(content); got != d {
			return fmt.Errorf("answer has digest %s: %w", got, layer.ErrCorrupt)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("get blob %s: %w", d, err)
	}
	return content, nil
}

func pulls(h hosts.Host) bool { return h.Pull }

// readDocument reads a whole body of at most limit bytes.
func readDocument(resp *http.Response, limit int64) ([]byte, error) {
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("answer is longer than %d bytes: %w", limit, errdefs.ErrInvalidArgument)
	}
	return content, nil
}

func mediaType(contentType string) string {
	t, _, _ := strings.Cut(contentType, ";")
	return strings.TrimSpace(t)
}

// each calls f with one host after the other until it succeeds.
func (r *Repository) each(ctx context.Context, may func(hosts.Host) bool, f func(context.Context, *endpoint) error) error {
	var failed HostsError
	for _, e := range r.endpoints {
		if !may(e.host) {
			continue
		}
		err := r.retry(ctx, e, f)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		failed.Tried = append(failed.Tried, HostError{Host: e.String(), Err: err})
	}
	if len(failed.Tried) == 0 {
		return fmt.Errorf("no host may be asked: %w", errdefs.ErrFailedPrecondition)
	}
	return &failed
}

// retry calls f up to attempts times, as long as another call may do better.
func (r *Repository) retry(ctx context.Context, e *endpoint, f func(context.Context, *endpoint) error) error {
	for try := 1; ; try++ {
		err := r.bounded(ctx, e, f)
		if err == nil || try == attempts || !transient(err) || ctx.Err() != nil {
			return err
		}
		if werr := r.wait(ctx, try, err); werr != nil {
			return err
		}
	}
}

// bounded gives a call for a document its time.
func (r *Repository) bounded(ctx context.Context, e *endpoint, f func(context.Context, *endpoint) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.opts.StallTimeout, errStalled)
	defer cancel()
	err := f(ctx, e)
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		return fmt.Errorf("no answer within %s: %w", r.opts.StallTimeout, errStalled)
	}
	return err
}

// wait sleeps before a retry, for as long as the host asked.
func (r *Repository) wait(ctx context.Context, try int, err error) error {
	d := min(r.opts.Backoff<<(try-1), maxBackoff)
	var se *statusError
	if errors.As(err, &se) && se.retryAfter > 0 {
		d = min(se.retryAfter, maxRetryAfter)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
