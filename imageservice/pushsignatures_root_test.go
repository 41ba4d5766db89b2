package imageservice

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/berth-cri/berth/imageservice/policy"
)

// An image that is signed in either form is admitted from the registry that it was pushed to,
// where somebody else has signed it already.
func TestPushedSignatures(t *testing.T) {
	from, to, key, other := newRegistry(t), newRegistry(t), newSigner(t), newSigner(t)
	policed := func(r *imagetest.Registry, key signer) *Service {
		return newService(t, func(o *Options) { o.PolicyFile = verifyAll(t, r.Host, key.publicKey()) })
	}
	s := policed(from, key)
	for tag, sign := range map[string]func(signer, *imagetest.Registry, string, digest.Digest){
		"simple": signer.signByTag, "bundle": signer.signByReferrer,
	} {
		i := &imagetest.Index{Images: []*imagetest.Image{small(tag)}}
		raw, _ := i.Manifest()
		d := digest.FromBytes(raw)
		name, err := from.PushIndex("app/a", tag, i)
		if err != nil {
			t.Fatal(err)
		}
		sign(key, from, "app/a", d)
		sign(other, to, "app/b", d)
		mustPull(t, s, name)
		target := to.Host + "/app/b:" + tag
		for range 2 { // the second time all is there
			mustPush(t, s, name, target)
		}
		for _, key := range []signer{key, other} {
			s := policed(to, key)
			if err := s.Admit(context.Background(), mustPull(t, s, target), target, ""); err != nil {
				t.Errorf("%s: %v", tag, err)
			}
		}
		if tag == "simple" {
			var m ocispec.Manifest
			if err := json.Unmarshal(served(t, to, "app/b/manifests/sha256-"+d.Encoded()+".sig"), &m); err != nil || len(m.Layers) != 2 {
				t.Errorf("%d signatures of two keys, %v", len(m.Layers), err)
			}
			continue
		}
		var x ocispec.Index
		if err := json.Unmarshal(served(t, to, "app/b/manifests/sha256-"+d.Encoded()), &x); err != nil || len(x.Manifests) != 2 || x.Manifests[1].ArtifactType != policy.BundleType {
			t.Errorf("referrers are %+v, %v", x.Manifests, err)
		}
	}
	// Without a signature nothing is admitted.
	name := push(t, to, "app/b", "none", small("none"))
	_, err := pullImage(policed(to, key), name)
	wantRefused(t, name, err)
}

// A registry with the referrers API is told nothing twice.
func TestPushedSignatureAtReferrersAPI(t *testing.T) {
	from, to, key := newRegistry(t), newRegistry(t), newSigner(t)
	s := newService(t, func(o *Options) { o.PolicyFile = verifyAll(t, from.Host, key.publicKey()) })
	i := small("bundle")
	name := push(t, from, "app/a", "1", i)
	key.signByReferrer(from, "app/a", i.Digest())
	mustPull(t, s, name)
	var subject string
	to.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			var m ocispec.Manifest
			raw, _ := io.ReadAll(req.Body)
			req.Body = io.NopCloser(bytes.NewReader(raw))
			if json.Unmarshal(raw, &m) == nil && m.Subject != nil {
				subject = m.Subject.Digest.String()
				w.Header().Set("OCI-Subject", subject)
			}
			next.ServeHTTP(w, req)
		})
	})
	mustPush(t, s, name, to.Host+"/app/b:1")
	if subject != i.Digest().String() {
		t.Errorf("the signature's subject is %q, want %s", subject, i.Digest())
	}
	if got := to.Requests("/manifests/sha256-"); len(got) != 0 {
		t.Errorf("the tag in place of the API was asked for: %v", got)
	}
}

// A registry that takes images alone gets the image, and the caller is told.
func TestRefusedSignature(t *testing.T) {
	from, to, key := newRegistry(t), newRegistry(t), newSigner(t)
	s := newService(t, func(o *Options) { o.PolicyFile = verifyAll(t, from.Host, key.publicKey()) })
	i := small("signed")
	name := push(t, from, "app/a", "1", i)
	key.signByTag(from, "app/a", i.Digest())
	mustPull(t, s, name)
	to.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodPut && strings.HasSuffix(req.URL.Path, ".sig") {
				w.WriteHeader(http.StatusUnsupportedMediaType)
				return
			}
			next.ServeHTTP(w, req)
		})
	})
	if done := mustPush(t, s, name, to.Host+"/app/b:1"); !strings.Contains(done.Note, "has not taken all signatures") {
		t.Errorf("%+v", done)
	}
	wantServed(t, to, "app/b", i)
}
