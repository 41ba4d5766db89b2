package noderegistry

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/berth-cri/berth/imageservice/reference"
)

// The kinds of requests, as metrics call them.
const (
	kindBase      = "base"
	kindManifest  = "manifest"
	kindBlob      = "blob"
	kindTags      = "tags"
	kindReferrers = "referrers"
	kindOther     = "other"
)

// request is one that was understood.
type request struct {
	kind string
	repo reference.Reference // without tag and digest
	name string              // the repository as the client calls it
	last string              // tag or digest
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	counted := &countingWriter{ResponseWriter: w, status: http.StatusOK}
	began := time.Now()
	kind := kindOther
	defer func() {
		s.metrics.observe(kind, counted.status, counted.sent)
		s.log.Debug("request of another node", "client", r.RemoteAddr, "method", r.Method, "path", r.URL.Path,
			"status", counted.status, "bytes", counted.sent, "took", time.Since(began))
	}()
	h := w.Header()
	h.Set("Docker-Distribution-API-Version", "registry/2.0")
	h.Set("X-Content-Type-Options", "nosniff")
	if !s.access.admits(r) {
		h.Set("WWW-Authenticate", `Basic realm="berth"`)
		(&failure{http.StatusUnauthorized, "UNAUTHORIZED", "a token is needed"}).write(counted)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		unsupported(http.StatusMethodNotAllowed, "this registry can only be read").write(counted)
		return
	}
	req, fail := parse(r)
	if fail == nil {
		kind = req.kind
		fail = s.answer(counted, r, req)
	}
	if fail != nil {
		fail.write(counted)
	}
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, req request) *failure {
	if req.kind == kindBase {
		return writeJSON(w, "application/json", struct{}{})
	}
	if !s.repositories.Match(req.repo.Repository()) || !s.allowed(req.repo) {
		return nameUnknown(req.name)
	}
	held := s.held(req.repo)
	if len(held) == 0 {
		return nameUnknown(req.name)
	}
	switch req.kind {
	case kindManifest:
		return s.serveManifest(w, r, held, req.last)
	case kindBlob:
		return s.serveBlob(w, r, held, req.last)
	case kindTags:
		return serveTags(w, r, held, req.name)
	default:
		return s.serveReferrers(w, r, held, req.last)
	}
}

// parse takes a path apart from its end: repositories may have any words in them.
func parse(r *http.Request) (request, *failure) {
	rest, ok := strings.CutPrefix(r.URL.Path, "/v2")
	if !ok || rest != "" && rest[0] != '/' {
		return request{}, unsupported(http.StatusNotFound, "the API is below /v2/")
	}
	rest = strings.TrimPrefix(rest, "/")
	if rest == "" {
		return request{kind: kindBase}, nil
	}
	parts := strings.Split(rest, "/")
	n := len(parts)
	if n < 3 {
		return request{}, unsupported(http.StatusNotFound, "there is no such thing in the API")
	}
	req := request{name: strings.Join(parts[:n-2], "/"), last: parts[n-1]}
	switch {
	case parts[n-2] == "manifests":
		req.kind = kindManifest
	case parts[n-2] == "blobs":
		req.kind = kindBlob
	case parts[n-2] == "referrers":
		req.kind = kindReferrers
	case parts[n-2] == "tags" && req.last == "list":
		req.kind = kindTags
	default:
		return request{}, unsupported(http.StatusNotFound, "there is no such thing in the API")
	}
	var err error
	if req.repo, err = repository(req.name, r.URL.Query().Get("ns")); err != nil {
		return request{}, &failure{http.StatusBadRequest, "NAME_INVALID", err.Error()}
	}
	return req, nil
}

// repository is the one that is meant: of the registry ns if there is one.
func repository(name, ns string) (reference.Reference, error) {
	whole := name
	if ns != "" {
		whole = ns + "/" + name
	}
	ref, err := reference.Parse(whole + ":" + reference.DefaultTag)
	if err != nil {
		return ref, err
	}
	ref.Tag = ""
	return ref, nil
}

func writeJSON(w http.ResponseWriter, contentType string, v any) *failure {
	body, err := json.Marshal(v)
	if err != nil {
		return &failure{http.StatusInternalServerError, "UNKNOWN", err.Error()}
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(body) // a client that is gone needs no answer
	return nil
}
