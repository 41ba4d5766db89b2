package imagetest

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
)

// Registry is a registry on the loopback interface. Its zero value is not ready;
// Serve makes one.
type Registry struct {
	// Host is its address, host:port, as it stands in image names.
	Host string

	server *http.Server
	store  http.Handler

	mu       sync.Mutex
	requests []string
	wrap     func(http.Handler) http.Handler
}

// Serve starts a registry at addr; "127.0.0.1:0" takes any free port. The caller
// must Close it.
func Serve(addr string) (*Registry, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("serve images: %w", err)
	}
	return ServeListener(ln), nil
}

// ServeListener is Serve for a listener that is there already, one with TLS for
// example.
func ServeListener(ln net.Listener) *Registry {
	r := &Registry{Host: ln.Addr().String(), store: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	r.server = &http.Server{
		Handler: http.HandlerFunc(r.handle), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: log.New(io.Discard, "", 0),
	}
	go r.server.Serve(ln) //nolint:errcheck // it ends with Close
	return r
}

// Close ends the registry and all its connections.
func (r *Registry) Close() { r.server.Close() }

// Wrap puts f around all requests from now on, to change answers or to break
// them; nil takes it away.
func (r *Registry) Wrap(f func(next http.Handler) http.Handler) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrap = f
}

func (r *Registry) handle(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, req.Method+" "+req.URL.RequestURI())
	wrap := r.wrap
	r.mu.Unlock()
	next := r.store
	if wrap != nil {
		next = wrap(next)
	}
	next.ServeHTTP(w, req)
}

// Requests returns the requests so far that contain part, as "METHOD uri".
func (r *Registry) Requests(part string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []string
	for _, req := range r.requests {
		if strings.Contains(req, part) {
			found = append(found, req)
		}
	}
	return found
}

// Push stores an image under repository:tag and returns its name.
func (r *Registry) Push(repository, tag string, i *Image) (string, error) {
	if err := r.pushBlobs(repository, i); err != nil {
		return "", err
	}
	content, mediaType := i.Manifest()
	if err := r.PutManifest(repository, tag, mediaType, content); err != nil {
		return "", err
	}
	return r.Host + "/" + repository + ":" + tag, nil
}

// PushIndex stores an index and its images.
func (r *Registry) PushIndex(repository, tag string, x *Index) (string, error) {
	for _, i := range x.Images {
		if _, err := r.Push(repository, i.Digest().Encoded()[:16], i); err != nil {
			return "", err
		}
	}
	content, mediaType := x.Manifest()
	if err := r.PutManifest(repository, tag, mediaType, content); err != nil {
		return "", err
	}
	return r.Host + "/" + repository + ":" + tag, nil
}

func (r *Registry) pushBlobs(repository string, i *Image) error {
	if err := r.PutBlob(repository, i.ConfigBlob()); err != nil {
		return err
	}
	for _, l := range i.Layers {
		if err := r.PutBlob(repository, l.Blob); err != nil {
			return err
		}
	}
	return nil
}

// PutBlob stores a blob.
func (r *Registry) PutBlob(repository string, content []byte) error {
	url := "/v2/" + repository + "/blobs/uploads/?digest=" + digest.FromBytes(content).String()
	return r.put(http.MethodPost, url, "application/octet-stream", content)
}

// PutManifest stores any document as a manifest.
func (r *Registry) PutManifest(repository, tag, mediaType string, content []byte) error {
	url := "/v2/" + repository + "/manifests/"
	if err := r.put(http.MethodPut, url+digest.FromBytes(content).String(), mediaType, content); err != nil {
		return err
	}
	return r.put(http.MethodPut, url+tag, mediaType, content)
}

// put goes around the network, and around what Wrap does to it.
func (r *Registry) put(method, url, contentType string, content []byte) error {
	req := httptest.NewRequest(method, url, bytes.NewReader(content))
	req.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	r.store.ServeHTTP(w, req)
	if w.Code/100 != 2 {
		return fmt.Errorf("store in the registry: %s %s: %d %s", method, url, w.Code, strings.TrimSpace(w.Body.String()))
	}
	return nil
}
