package imageservice

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"github.com/berth-cri/berth/imageservice/policy"
)

// signer signs images with a key, as cosign does.
type signer struct {
	t   *testing.T
	key imagetest.SigningKey
}

func newSigner(t *testing.T) signer {
	t.Helper()
	key, err := imagetest.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	return signer{t, key}
}

// publicKey writes it to a file.
func (s signer) publicKey() string {
	s.t.Helper()
	content, err := s.key.PublicPEM()
	if err != nil {
		s.t.Fatal(err)
	}
	return writeFile(s.t, "key.pub", string(content))
}

func (s signer) sign(content []byte) []byte {
	s.t.Helper()
	signature, err := s.key.SignContent(content)
	if err != nil {
		s.t.Fatal(err)
	}
	return signature
}

// simple is a signature in the older form: the content of a layer, and its annotations.
func (s signer) simple(d digest.Digest) (payload []byte, annotations map[string]string) {
	s.t.Helper()
	payload = fmt.Appendf(nil, `{"critical":{"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"}}`, d)
	return payload, map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(s.sign(payload))}
}

// signByTag puts a signature in the older form into the registry.
func (s signer) signByTag(r *imagetest.Registry, repository string, d digest.Digest) {
	s.t.Helper()
	payload, annotations := s.simple(d)
	s.put(r, repository, "sha256-"+d.Encoded()+".sig", "", policy.SimpleSigningType, payload, annotations)
}

// bundle is a signature in the newer form.
func (s signer) bundle(d digest.Digest) []byte {
	s.t.Helper()
	const kind = "application/vnd.in-toto+json"
	statement := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`, d.Encoded())
	signature := s.sign(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(statement), statement))
	return fmt.Appendf(nil, `{"mediaType":%q,"verificationMaterial":{"publicKey":{"hint":""}},"dsseEnvelope":{"payload":%q,"payloadType":%q,"signatures":[{"sig":%q}]}}`,
		policy.BundleType, base64.StdEncoding.EncodeToString([]byte(statement)), kind, base64.StdEncoding.EncodeToString(signature))
}

// signByReferrer puts a signature in the newer form into the registry, which lists it
// under a tag in place of the API.
func (s signer) signByReferrer(r *imagetest.Registry, repository string, d digest.Digest) {
	s.t.Helper()
	m := s.put(r, repository, "some-signature", policy.BundleType, policy.BundleType, s.bundle(d), nil)
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: m, Size: 1, ArtifactType: policy.BundleType}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := r.PutManifest(repository, "sha256-"+d.Encoded(), ocispec.MediaTypeImageIndex, index); err != nil {
		s.t.Fatal(err)
	}
}

func (s signer) put(r *imagetest.Registry, repository, tag, artifactType, layerType string, content []byte, annotations map[string]string) digest.Digest {
	s.t.Helper()
	empty := []byte("{}")
	for _, blob := range [][]byte{content, empty} {
		if err := r.PutBlob(repository, blob); err != nil {
			s.t.Fatal(err)
		}
	}
	m, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeEmptyJSON, Digest: digest.FromBytes(empty), Size: 2},
		Layers: []ocispec.Descriptor{{MediaType: layerType, Digest: digest.FromBytes(content), Size: int64(len(content)), Annotations: annotations}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := r.PutManifest(repository, tag, ocispec.MediaTypeImageManifest, m); err != nil {
		s.t.Fatal(err)
	}
	return digest.FromBytes(m)
}

func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// verifyAll is a policy by which one key must have signed what is in app/.
func verifyAll(t *testing.T, host, key string) string {
	return writeFile(t, "policy.yaml", fmt.Sprintf(`
apiVersion: berth.dev/v1alpha1
kind: ImagePolicy
authorities: [{name: release, key: %s}]
rules:
- {images: ["%s/app/**"], action: Verify, authorities: [release]}
- {images: ["%s/other/*"], namespaces: [trusted], action: Allow}
- {images: ["%s/other/*"], action: Deny}
`, key, host, host, host))
}

func wantRefused(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || !strings.HasPrefix(err.Error(), crierrors.ErrSignatureValidationFailed.Error()) {
		t.Errorf("%s: %v", what, err)
	}
}

func TestSignedImages(t *testing.T) {
	r, key := newRegistry(t), newSigner(t)
	s := newService(t, func(o *Options) { o.PolicyFile = verifyAll(t, r.Host, key.publicKey()) })
	old, fresh, none, forged := small("old"), small("fresh"), small("none"), small("forged")
	names := map[string]*imagetest.Image{}
	for tag, i := range map[string]*imagetest.Image{"old": old, "fresh": fresh, "none": none, "forged": forged} {
		names[push(t, r, "app/a", tag, i)] = i
	}
	key.signByTag(r, "app/a", old.Digest())
	key.signByReferrer(r, "app/a", fresh.Digest())
	newSigner(t).signByTag(r, "app/a", forged.Digest())
	for name, i := range names {
		id, err := pullImage(s, name)
		if i == none || i == forged {
			wantRefused(t, name, err)
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := s.Admit(context.Background(), id, name, "any"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Admit(context.Background(), id, "", "any"); err != nil {
			t.Errorf("%s by its ID: %v", name, err)
		}
	}
	if got := len(r.Requests("/blobs/" + none.Layers[0].Descriptor.Digest.String())); got != 0 {
		t.Errorf("a layer of a refused image was fetched %d times", got)
	}
	if left := len(s.store.Images()); left != 2 {
		t.Errorf("%d images, want 2", left)
	}
}

// An index is signed, and the image that was chosen from it runs.
func TestSignedIndex(t *testing.T) {
	r, key := newRegistry(t), newSigner(t)
	s := newService(t, func(o *Options) { o.PolicyFile = verifyAll(t, r.Host, key.publicKey()) })
	x := &imagetest.Index{Images: []*imagetest.Image{small("one")}}
	name, err := r.PushIndex("app/multi", "1", x)
	if err != nil {
		t.Fatal(err)
	}
	content, _ := x.Manifest()
	key.signByTag(r, "app/multi", digest.FromBytes(content))
	if err := s.Admit(context.Background(), mustPull(t, s, name), name, ""); err != nil {
		t.Error(err)
	}
}

// What is on the node already is looked at again when a container is made.
func TestCachedImagesAreAdmitted(t *testing.T) {
	r, key := newRegistry(t), newSigner(t)
	file := writeFile(t, "policy.yaml", "apiVersion: berth.dev/v1alpha1\nkind: ImagePolicy\n")
	s := newService(t, func(o *Options) { o.PolicyFile = file })
	name, other := push(t, r, "app/a", "1", small("a")), push(t, r, "other/a", "1", small("b"))
	id, otherID := mustPull(t, s, name), mustPull(t, s, other)
	ctx := context.Background()
	if err := s.Admit(ctx, id, name, ""); err != nil {
		t.Fatal(err)
	}
	strict, err := os.ReadFile(verifyAll(t, r.Host, key.publicKey()))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, strict, 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, "an image without a signature", s.Admit(ctx, id, name, ""))
	wantRefused(t, "by a name that it does not have", s.Admit(ctx, id, "elsewhere.example/a", ""))
	wantRefused(t, "in a namespace", s.Admit(ctx, otherID, other, "any"))
	if err := s.Admit(ctx, otherID, other, "trusted"); err != nil {
		t.Error(err)
	}
	key.signByTag(r, "app/a", small("a").Digest())
	mustPull(t, s, name)
	if err := s.Admit(ctx, id, name, ""); err != nil {
		t.Errorf("after it was signed and pulled again: %v", err)
	}
	// A policy that cannot be read leaves the one before in force.
	if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, "with a broken policy", s.Admit(ctx, otherID, other, "any"))
}

// The rule for a namespace decides about a pull for a pod in it.
func TestPullForNamespace(t *testing.T) {
	r := newRegistry(t)
	s := newService(t, func(o *Options) { o.PolicyFile = verifyAll(t, r.Host, newSigner(t).publicKey()) })
	name := push(t, r, "other/a", "1", small("x"))
	_, err := pullImage(s, name)
	wantRefused(t, "for no pod", err)
	if len(r.Requests("/")) != 0 {
		t.Errorf("the registry was asked: %v", r.Requests("/"))
	}
	_, err = s.PullImage(context.Background(), &runtimeapi.PullImageRequest{
		Image:         &runtimeapi.ImageSpec{Image: name},
		SandboxConfig: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Namespace: "trusted"}},
	})
	if err != nil {
		t.Error(err)
	}
}

// A registry that cannot say whether there is a signature is unavailable; that is not
// the same as an image without one.
func TestSignatureOutOfReach(t *testing.T) {
	r, key := newRegistry(t), newSigner(t)
	s := newService(t, func(o *Options) { o.PolicyFile = verifyAll(t, r.Host, key.publicKey()) })
	name := push(t, r, "app/a", "1", small("x"))
	key.signByTag(r, "app/a", small("x").Digest())
	r.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.HasSuffix(req.URL.Path, ".sig") {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			next.ServeHTTP(w, req)
		})
	})
	_, err := pullImage(s, name)
	if err == nil || !strings.HasPrefix(err.Error(), crierrors.ErrRegistryUnavailable.Error()) {
		t.Errorf("%v", err)
	}
}
