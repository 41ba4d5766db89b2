package imageservice

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/berth-cri/berth/imageservice/noderegistry"
	"github.com/berth-cri/berth/imageservice/store"
)

// serveNode serves a service's images and returns the address.
func serveNode(t *testing.T, s *Service, change ...func(*noderegistry.Options)) string {
	t.Helper()
	o := noderegistry.Options{
		Address: "127.0.0.1:0", Repositories: []string{"127.0.0.1:*/open/**"}, MaxTransfers: 4,
		Registry: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&o)
	}
	server, err := s.NodeRegistry(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return server.Addr().String()
}

// ask sends one request as it is; the path is not cleaned.
func ask(t *testing.T, method, addr, path string, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequest(method, "http://"+addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, query, _ := strings.Cut(path, "?")
	req.URL.Opaque, req.URL.RawQuery = "//"+addr+raw, query
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

// wantFailure checks the form of an error, too.
func wantFailure(t *testing.T, addr, method, path string, status int, code string, header ...string) {
	t.Helper()
	resp, body := ask(t, method, addr, path, header...)
	if resp.StatusCode != status {
		t.Errorf("%s %s: %s, want %d: %s", method, path, resp.Status, status, body)
	}
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if method != http.MethodHead && (json.Unmarshal(body, &doc) != nil || len(doc.Errors) != 1 || doc.Errors[0].Code != code || doc.Errors[0].Message == "") {
		t.Errorf("%s %s: %s", method, path, body)
	}
}

// Another implementation's client gets the images whole, by tag and by digest, through
// an index and without.
func TestNodeRegistryServesOtherClients(t *testing.T) {
	r := newRegistry(t)
	s := newService(t, withHosts(t, "registry.example", "server = \"http://$server\"", map[string]string{"server": r.Host}))
	plain := imagetest.New(someLayer("a"), someLayer("b"))
	push(t, r, "open/plain", "1", plain)
	if _, err := r.PushIndex("open/deep/multi", "v1", &imagetest.Index{Images: []*imagetest.Image{imagetest.New(someLayer("c"))}}); err != nil {
		t.Fatal(err)
	}
	const repository, indexName = "registry.example/open/plain", "registry.example/open/deep/multi:v1"
	mustPull(t, s, repository+":1")
	mustPull(t, s, indexName)
	r.Close()
	token := writeFile(t, "tokens", "# clients\nnode-b:0123456789abcdef0123\n")
	addr := serveNode(t, s, func(o *noderegistry.Options) {
		o.TokensFile, o.Repositories = token, []string{"registry.example/open/**"}
	})
	auth := remote.WithAuth(&authn.Basic{Username: "node-b", Password: "0123456789abcdef0123"})
	for _, what := range []string{repository + ":1", repository + "@" + plain.Digest().String(), indexName} {
		ref, err := name.ParseReference(addr + "/" + what)
		if err != nil {
			t.Fatal(err)
		}
		img, err := remote.Image(ref, auth)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if err := validate.Image(img); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if _, err := remote.Image(ref); err == nil {
			t.Errorf("%s was given away without a token", what)
		}
	}
	repo, err := name.NewRepository(addr + "/" + repository)
	if err != nil {
		t.Fatal(err)
	}
	if tags, err := remote.List(repo, auth); err != nil || fmt.Sprint(tags) != "[1]" {
		t.Errorf("tags %v, %v", tags, err)
	}
}

func TestNodeRegistryRequests(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	image := imagetest.New(someLayer("a"))
	mustPull(t, s, push(t, r, "open/app", "1", image))
	mustPull(t, s, push(t, r, "closed/app", "1", imagetest.New(someLayer("closed"))))
	for _, tag := range []string{"2", "3"} {
		mustPull(t, s, push(t, r, "open/app", tag, image))
	}
	addr := serveNode(t, s)
	ns, app, layer := "?ns="+r.Host, "/v2/open/app", image.Layers[0]
	blob := app + "/blobs/" + layer.Descriptor.Digest.String() + ns
	raw, mediaType := image.Manifest()

	for path, want := range map[string][]byte{blob: layer.Blob, app + "/manifests/1" + ns: raw, app + "/manifests/" + image.Digest().String() + ns: raw,
		"/v2/" + r.Host + "/open/app/manifests/2": raw, app + "/blobs/" + image.ID() + ns: image.ConfigBlob()} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			resp, body := ask(t, method, addr, path)
			if method == http.MethodHead {
				want = nil
			}
			if resp.StatusCode != 200 || !bytes.Equal(body, want) && method == http.MethodGet || len(body) != 0 && method == http.MethodHead || resp.ContentLength <= 0 {
				t.Errorf("%s %s: %s, %d bytes of %d", method, path, resp.Status, len(body), resp.ContentLength)
			}
			if resp.Header.Get("Docker-Content-Digest") == "" || resp.Header.Get("Docker-Distribution-API-Version") != "registry/2.0" {
				t.Errorf("%s: %v", path, resp.Header)
			}
			if strings.Contains(path, "manifests") && resp.Header.Get("Content-Type") != mediaType {
				t.Errorf("%s: %v", path, resp.Header)
			}
		}
	}
	if resp, body := ask(t, "GET", addr, blob, "Range", "bytes=3-7"); resp.StatusCode != 206 || !bytes.Equal(body, layer.Blob[3:8]) {
		t.Errorf("range: %s, %d bytes", resp.Status, len(body))
	}
	if resp, _ := ask(t, "GET", addr, blob, "Range", "bytes=99999999-"); resp.StatusCode != 416 {
		t.Errorf("range behind the end: %s", resp.Status)
	}
	if resp, body := ask(t, "GET", addr, blob, "If-None-Match", `"`+layer.Descriptor.Digest.String()+`"`); resp.StatusCode != 304 || len(body) != 0 {
		t.Errorf("conditional: %s", resp.Status)
	}
	resp, body := ask(t, "GET", addr, app+"/tags/list"+ns+"&n=2")
	if string(body) != `{"name":"open/app","tags":["1","2"]}` || !strings.Contains(resp.Header.Get("Link"), "last=2") {
		t.Errorf("tags: %s %v", body, resp.Header)
	}
	if _, body := ask(t, "GET", addr, app+"/tags/list"+ns+"&last=2"); string(body) != `{"name":"open/app","tags":["3"]}` {
		t.Errorf("tags: %s", body)
	}
	if resp, _ := ask(t, "GET", addr, "/v2/"); resp.StatusCode != 200 {
		t.Errorf("/v2/: %s", resp.Status)
	}

	closed := imagetest.New(someLayer("closed"))
	other := digest.FromString("other").String()
	for _, c := range []struct {
		method, path string
		status       int
		code         string
	}{
		{"GET", "/v2/closed/app/manifests/1" + ns, 404, "NAME_UNKNOWN"},
		{"GET", app + "/blobs/" + closed.Layers[0].Descriptor.Digest.String() + ns, 404, "BLOB_UNKNOWN"}, // of another repository
		{"GET", app + "/blobs/" + image.Digest().String() + ns, 404, "BLOB_UNKNOWN"},
		{"GET", app + "/manifests/" + layer.Descriptor.Digest.String() + ns, 404, "MANIFEST_UNKNOWN"},
		{"GET", app + "/manifests/1?ns=elsewhere.example", 404, "NAME_UNKNOWN"},
		{"GET", app + "/manifests/1", 404, "NAME_UNKNOWN"}, // docker.io's
		{"GET", app + "/manifests/none" + ns, 404, "MANIFEST_UNKNOWN"},
		{"HEAD", app + "/manifests/none" + ns, 404, ""},
		{"GET", app + "/blobs/" + other + ns, 404, "BLOB_UNKNOWN"},
		{"GET", app + "/blobs/sha256:../../../../etc/passwd" + ns, 404, "UNSUPPORTED"},
		{"GET", app + "/blobs/..%2f..%2f..%2fetc%2fpasswd" + ns, 404, "UNSUPPORTED"},
		{"GET", app + "/blobs/md5:d41d8cd98f00b204e9800998ecf8427e" + ns, 400, "DIGEST_INVALID"},
		{"GET", app + "/../../../etc/passwd", 404, "UNSUPPORTED"},
		{"GET", "/v2/../../etc/blobs/" + other + ns, 400, "NAME_INVALID"},
		{"GET", "/v2/open//app/manifests/1" + ns, 400, "NAME_INVALID"},
		{"GET", app + "/manifests/1?ns=..%2f..", 400, "NAME_INVALID"},
		{"GET", app + "/tags/list" + ns + "&n=x", 400, "PAGINATION_NUMBER_INVALID"},
		{"GET", "/", 404, "UNSUPPORTED"},
		{"GET", "/v2/_catalog", 404, "UNSUPPORTED"},
		{"GET", "/metrics", 404, "UNSUPPORTED"},
		{"POST", app + "/blobs/uploads/" + ns, 405, "UNSUPPORTED"},
		{"PUT", app + "/manifests/1" + ns, 405, "UNSUPPORTED"},
		{"DELETE", app + "/manifests/" + image.Digest().String() + ns, 405, "UNSUPPORTED"},
	} {
		wantFailure(t, addr, c.method, c.path, c.status, c.code)
	}
}

// Ten thousand tags are listed in pages, as clients ask for them.
func TestNodeRegistryPages(t *testing.T) {
	const count, page = 10_000, 1_000
	s := newService(t)
	config := imagetest.New().ConfigBlob()
	manifest, mediaType := imagetest.New().Manifest()
	img := store.Image{ID: digest.FromBytes(config), ManifestDigest: digest.FromBytes(manifest), MediaType: mediaType}
	desc := ocispec.Descriptor{Digest: img.ManifestDigest}
	img.Sources = []store.Source{{Top: desc, Manifest: desc}}
	refs := make([]string, count)
	for i := range refs {
		refs[i] = fmt.Sprintf("127.0.0.1:5000/open/app:t%05d", i)
	}
	if err := s.store.PutImage(img, refs, config, manifest); err != nil {
		t.Fatal(err)
	}
	addr := serveNode(t, s)
	next, pages := fmt.Sprintf("/v2/open/app/tags/list?ns=127.0.0.1:5000&n=%d", page), 0
	for at := 0; next != ""; pages++ {
		resp, body := ask(t, "GET", addr, next)
		var list struct{ Tags []string }
		if err := json.Unmarshal(body, &list); err != nil || len(list.Tags) != page || list.Tags[0] != fmt.Sprintf("t%05d", at) {
			t.Fatalf("page %d: %s: %d tags, %v", pages, resp.Status, len(list.Tags), err)
		}
		at += page
		next, _, _ = strings.Cut(strings.TrimPrefix(resp.Header.Get("Link"), "<"), ">")
	}
	if pages != count/page {
		t.Errorf("%d pages", pages)
	}
}

func TestNodeRegistryReferrers(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	image := imagetest.New(someLayer("a"))
	mustPull(t, s, push(t, r, "open/app", "1", image))
	raw, mediaType := image.Manifest()
	a := &imagetest.Artifact{Type: "application/vnd.example.sbom", Files: []imagetest.ArtifactFile{{Title: "sbom", MediaType: "text/plain", Blob: []byte("parts")}}}
	if _, err := r.PushArtifact("open/app", "unused", a); err != nil { // for its blobs
		t.Fatal(err)
	}
	content, _ := a.Manifest()
	var m ocispec.Manifest
	if err := json.Unmarshal(content, &m); err != nil {
		t.Fatal(err)
	}
	m.Subject = &ocispec.Descriptor{MediaType: mediaType, Digest: image.Digest(), Size: int64(len(raw))}
	content, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.PutManifest("open/app", "sbom", ocispec.MediaTypeImageManifest, content); err != nil {
		t.Fatal(err)
	}
	mustPull(t, s, r.Host+"/open/app:sbom")
	addr := serveNode(t, s)
	for query, want := range map[string]int{"": 1, "&artifactType=application/vnd.example.sbom": 1, "&artifactType=other": 0} {
		resp, body := ask(t, "GET", addr, "/v2/open/app/referrers/"+image.Digest().String()+"?ns="+r.Host+query)
		var index ocispec.Index
		if err := json.Unmarshal(body, &index); err != nil || resp.StatusCode != 200 || len(index.Manifests) != want {
			t.Errorf("%q: %s %s", query, resp.Status, body)
			continue
		}
		if want == 1 && (index.Manifests[0].Digest != digest.FromBytes(content) || index.Manifests[0].ArtifactType != a.Type || index.Manifests[0].Size != int64(len(content))) {
			t.Errorf("%+v", index.Manifests[0])
		}
	}
}

// What is being pulled is not served, what the policy denies neither, and of encrypted
// images the encrypted blobs.
func TestNodeRegistryServesNothingElse(t *testing.T) {
	key := recipient(t, imagetest.NewRecipient)
	policyFile := writeFile(t, "policy.yaml", "apiVersion: berth.dev/v1alpha1\nkind: ImagePolicy\n")
	s, r := newService(t, withKeys(keyFolder(t, key)), func(o *Options) { o.PolicyFile = policyFile }), newRegistry(t)
	addr := serveNode(t, s)
	secret := encrypted(t, []*imagetest.Recipient{key}, "secret text")
	mustPull(t, s, push(t, r, "open/secret", "1", secret))
	l := secret.Layers[1]
	if _, body := ask(t, "GET", addr, "/v2/open/secret/blobs/"+l.Descriptor.Digest.String()+"?ns="+r.Host); !bytes.Equal(body, l.Blob) {
		t.Error("another blob than the encrypted one")
	}
	for _, layer := range s.store.Layers() {
		for _, d := range []digest.Digest{layer.DiffID, layer.Archive} {
			if d != "" {
				wantFailure(t, addr, "GET", "/v2/open/secret/blobs/"+d.String()+"?ns="+r.Host, 404, "BLOB_UNKNOWN")
			}
		}
	}

	slow := imagetest.New(someLayer("first"), someLayer("second"))
	goOn, stuck := make(chan struct{}), make(chan struct{})
	var once sync.Once
	r.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, slow.Layers[1].Descriptor.Digest.String()) {
				once.Do(func() { close(stuck) })
				<-goOn
			}
			next.ServeHTTP(w, req)
		})
	})
	name := push(t, r, "open/slow", "1", slow)
	pulled := make(chan error, 1)
	go func() {
		_, err := pullImage(s, name)
		pulled <- err
	}()
	<-stuck
	path := "/v2/open/slow/manifests/1?ns=" + r.Host
	wantFailure(t, addr, "GET", path, 404, "NAME_UNKNOWN")
	close(goOn)
	if err := <-pulled; err != nil {
		t.Fatal(err)
	}
	if resp, _ := ask(t, "GET", addr, path); resp.StatusCode != 200 {
		t.Errorf("after the pull: %s", resp.Status)
	}
	if err := os.WriteFile(policyFile, []byte("apiVersion: berth.dev/v1alpha1\nkind: ImagePolicy\nrules: [{images: ['*/open/slow'], action: Deny}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantFailure(t, addr, "GET", path, 404, "NAME_UNKNOWN")
}

func TestNodeRegistryTokens(t *testing.T) {
	s := newService(t)
	file := writeFile(t, "tokens", "a:0123456789abcdef\n")
	addr := serveNode(t, s, func(o *noderegistry.Options) { o.TokensFile = file })
	for header, status := range map[string]int{
		"": 401, "Bearer 0123456789abcdef": 200, "bearer 0123456789abcdef": 200, "Bearer 0123456789abcde": 401, "Bearer ": 401, "Bearer a": 401,
		"Basic YTowMTIzNDU2Nzg5YWJjZGVm": 200, "Basic YjowMTIzNDU2Nzg5YWJjZGVm": 401, "Basic %": 401,
	} {
		resp, body := ask(t, "GET", addr, "/v2/", "Authorization", header)
		if resp.StatusCode != status || status == 401 && (resp.Header.Get("WWW-Authenticate") == "" || !strings.Contains(string(body), "UNAUTHORIZED")) {
			t.Errorf("%q: %s %s", header, resp.Status, body)
		}
	}
	for _, content := range []string{"a:fedcba9876543210\n", "nonsense that is longer than before\n"} { // the second is not taken
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		later(t, file)
		if resp, _ := ask(t, "GET", addr, "/v2/", "Authorization", "Bearer fedcba9876543210"); resp.StatusCode != 200 {
			t.Errorf("after a change: %s", resp.Status)
		}
		if resp, _ := ask(t, "GET", addr, "/v2/", "Authorization", "Bearer 0123456789abcdef"); resp.StatusCode != 401 {
			t.Errorf("with the old token: %s", resp.Status)
		}
	}
	for _, bad := range []string{"a:short\n", ":0123456789abcdef\n", "0123456789abcdef\n"} {
		o := noderegistry.Options{Address: "127.0.0.1:0", TokensFile: writeFile(t, "bad", bad), Registry: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler)}
		if _, err := s.NodeRegistry(o); err == nil || !strings.Contains(err.Error(), "line 1") || strings.Contains(err.Error(), "0123456789abcdef") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// As many transfers as allowed are under way: one more is told to come again.
func TestNodeRegistryBounds(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	big := imagetest.New(imagetest.NewLayer(imagetest.Tar(imagetest.File("big", strings.Repeat("x", 32<<20), 0o644)), imagetest.Plain))
	mustPull(t, s, push(t, r, "open/big", "1", big))
	addr := serveNode(t, s, func(o *noderegistry.Options) { o.MaxTransfers, o.Bandwidth = 1, 64<<20 })
	path := "/v2/open/big/blobs/" + big.Layers[0].Descriptor.Digest.String() + "?ns=" + r.Host
	resp, err := http.Get("http://" + addr + path) // and not read: it does not fit the socket's buffers
	if err != nil {
		t.Fatal(err)
	}
	wantFailure(t, addr, "GET", path, 429, "TOOMANYREQUESTS")
	if resp, _ := ask(t, "HEAD", addr, path); resp.StatusCode != 200 {
		t.Errorf("HEAD: %s", resp.Status)
	}
	got, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !bytes.Equal(got, big.Layers[0].Blob) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if resp, _ := ask(t, "GET", addr, path); resp.StatusCode != 200 {
		t.Errorf("after it: %s", resp.Status)
	}
}

// later gives a file a time that no earlier state of it had.
func later(t *testing.T, file string) {
	t.Helper()
	st, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	next := st.ModTime().Add(time.Second)
	if err := os.Chtimes(file, next, next); err != nil {
		t.Fatal(err)
	}
}
