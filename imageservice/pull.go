package imageservice

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/berth-cri/berth/imageservice/credentials"
	"github.com/berth-cri/berth/imageservice/encryption"
	"github.com/berth-cri/berth/imageservice/failpoint"
	"github.com/berth-cri/berth/imageservice/hosts"
	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/policy"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/berth-cri/berth/imageservice/registry"
	"github.com/berth-cri/berth/imageservice/store"
	"github.com/berth-cri/berth/operation"
	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// PullImage implements ImageService.PullImage and returns the image ID. Calls for
// the same name with the same credentials share one pull. A pull goes on when its
// callers have left, and either completes or leaves nothing.
//
// The error's message begins with "RegistryUnavailable" when it is the registry
// that cannot be reached: that is how the kubelet tells.
func (s *Service) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (string, error) {
	name := r.GetImage().GetImage()
	ref, err := reference.Parse(name)
	if err != nil {
		return "", fmt.Errorf("pull image: %w", err)
	}
	admitted := s.admission.policy().Decide(ref, r.GetSandboxConfig().GetMetadata().GetNamespace())
	if admitted.Action == policy.Deny {
		return "", refused(name, admitted.Check(nil))
	}
	p, err := s.joinPull(ctx, ref, r, admitted)
	if err != nil {
		return "", fmt.Errorf("pull image %q: %w", name, err)
	}
	defer p.joined(ctx)()
	select {
	case <-p.done:
	case <-ctx.Done():
		return "", fmt.Errorf("pull image %q: %w (the pull goes on)", name, context.Cause(ctx))
	}
	if errors.Is(p.err, registry.ErrUnavailable) {
		return "", fmt.Errorf("%w: pull image %q: %w", crierrors.ErrRegistryUnavailable, name, p.err)
	}
	if errors.Is(p.err, policy.ErrRefused) {
		return "", refused(name, p.err)
	}
	if p.err != nil {
		return "", fmt.Errorf("pull image %q: %w", name, p.err)
	}
	return p.id.String(), nil
}

// refused is the error for an image that the policy does not allow.
func refused(name string, why error) error {
	return fmt.Errorf("%w: pull image %q: %w", crierrors.ErrSignatureValidationFailed, name, why)
}

// pull is one running pull.
type pull struct {
	s    *Service
	by   *operation.Operation // that began it
	ref  reference.Reference
	spec *runtimeapi.ImageSpec
	// endStage ends the stage of the operation that the pull is in; nil in none.
	endStage func(error)
	auth     *authn.AuthConfig
	// admitted is what the image policy says of the name.
	admitted policy.Decision

	progress progress
	done     chan struct{} // closed when the rest is set
	id       digest.Digest
	err      error
}

// joinPull returns the running pull for the same request, or starts it.
func (s *Service) joinPull(ctx context.Context, ref reference.Reference, r *runtimeapi.PullImageRequest, admitted policy.Decision) (*pull, error) {
	auth := authFor(ref, r.GetAuth())
	// What one rule admits, another may not.
	key := pullKey(ref, auth) + " " + admitted.Reason
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pullCtx.Err() != nil {
		return nil, context.Cause(s.pullCtx)
	}
	if p, ok := s.pulls[key]; ok {
		return p, nil
	}
	p := &pull{s: s, by: operation.From(ctx), ref: ref, spec: r.GetImage(), auth: auth, admitted: admitted, done: make(chan struct{})}
	p.progress.begin(ref.String())
	s.pulls[key] = p
	release := operation.Hold(ctx)
	work := operation.Carry(s.pullCtx, ctx)
	s.running.Go(func() {
		defer release()
		p.id, p.err = p.runGuarded(work)
		s.counters.pulls.Add(1)
		if p.err != nil {
			s.counters.pullErrors.Add(1)
		}
		s.mu.Lock()
		delete(s.pulls, key)
		s.mu.Unlock()
		close(p.done)
	})
	return p, nil
}

// pullKey separates callers with different credentials: what one may see says
// nothing about the other.
func pullKey(ref reference.Reference, auth *authn.AuthConfig) string {
	b, err := json.Marshal(auth)
	if err != nil {
		b = []byte(err.Error()) // strings always encode
	}
	sum := sha256.Sum256(b)
	return ref.String() + " " + hex.EncodeToString(sum[:])
}

// authFor is what of the request's credentials may be used for ref's registry.
func authFor(ref reference.Reference, a *runtimeapi.AuthConfig) *authn.AuthConfig {
	if a == nil {
		return nil
	}
	if a.ServerAddress != "" && !sameRegistry(a.ServerAddress, ref.Domain) {
		return nil
	}
	c := authn.AuthConfig{Username: a.Username, Password: a.Password, Auth: a.Auth, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
	if c == (authn.AuthConfig{}) {
		return nil
	}
	return &c
}

// sameRegistry compares a server address, in the forms that Docker's config.json
// has, with a registry.
func sameRegistry(address, domain string) bool {
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	host := strings.ToLower(u.Host)
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		host = reference.DefaultDomain
	}
	return host == strings.ToLower(domain)
}

// runGuarded makes an error of a panic: what a registry sends must not end the
// daemon.
func (p *pull) runGuarded(ctx context.Context) (id digest.Digest, err error) {
	defer func() {
		if r := recover(); r != nil {
			p.s.log.Error("panic in a pull", "image", p.ref.String(), "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v: %w", r, errdefs.ErrInternal)
		}
	}()
	return p.run(ctx)
}

// run is the pull from end to end.
func (p *pull) run(ctx context.Context) (id digest.Digest, err error) {
	start := time.Now()
	defer func() { p.stageOver(err) }()
	p.stage(ctx, StageResolve)
	repo, err := p.open(ctx)
	if err != nil {
		return "", err
	}
	defer repo.Close()
	if id, same := p.unchanged(ctx, repo); same {
		p.s.counters.unchanged.Add(1)
		p.s.log.Info("image is as the registry has it", "image", p.ref.String(), "id", id)
		return id, nil
	}
	found, err := p.resolve(ctx, repo)
	if err != nil {
		return "", err
	}
	if err := p.checkSignatures(ctx, repo, found); err != nil {
		return "", err
	}
	if err := p.s.unlock(found); err != nil {
		return "", err
	}
	failpoint.Pass("pull/resolved")
	fetching := p.stage(ctx, StageLayers)
	lease := p.s.store.Lease()
	defer func() { err = errors.Join(err, lease.Release()) }()
	if err := p.fetchLayers(fetching, repo, found, lease); err != nil {
		return "", err
	}
	failpoint.Pass("pull/fetched")
	committing := p.stage(ctx, StageCommit)
	p.s.keepDocuments(committing, found, repo, lease)
	if err := p.s.record(p.ref, p.spec.GetUserSpecifiedImage(), found); err != nil {
		return "", err
	}
	failpoint.Pass("pull/recorded")
	p.s.markDirty()
	p.s.log.Info("pulled image", "image", p.ref.String(), "id", found.id, "took", time.Since(start).Round(time.Millisecond))
	return found.id, nil
}

// open prepares the access to the pull's repository.
func (p *pull) open(ctx context.Context) (*registry.Repository, error) {
	return p.s.openRepository(ctx, p.ref, p.auth, registry.Options{})
}

// openRepository reads which hosts serve ref's repository, and the node's credentials if
// auth is nil. What o says of pushing stays.
func (s *Service) openRepository(ctx context.Context, ref reference.Reference, auth *authn.AuthConfig, o registry.Options) (*registry.Repository, error) {
	list, warnings, err := hosts.Load(s.opts.CertsDirs, ref.Domain)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	for _, w := range warnings {
		s.log.Warn("hosts.toml", "registry", ref.Domain, "warning", w)
	}
	if auth == nil {
		if auth, err = s.nodeAuth(ctx, ref); err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
		}
	}
	o.Hosts, o.Auth, o.MirrorAuth = list, auth, s.nodeAuth
	o.StallTimeout, o.MinProgress, o.Backoff = s.opts.StallTimeout, s.opts.MinProgress, s.opts.RetryBackoff
	o.Connections, o.Split = s.opts.BlobConnections, func() { s.counters.split.Add(1) }
	o.UserAgent, o.Logger = s.opts.UserAgent, s.log
	repo, err := registry.Open(ref, o)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return repo, nil
}

// nodeAuth finds the node's own credentials for a repository; nil is none.
func (s *Service) nodeAuth(ctx context.Context, at reference.Reference) (*authn.AuthConfig, error) {
	if s.opts.DockerConfig == "" {
		return nil, nil
	}
	return credentials.Find(ctx, s.opts.DockerConfig, at)
}

// resolved is what a name led to.
type resolved struct {
	top         digest.Digest // what the name itself stands for: an index, or the manifest
	manifest    registry.Document
	mediaType   string
	layers      []ocispec.Descriptor
	annotations map[string]string
	id          digest.Digest
	config      []byte
	diffIDs     []digest.Digest
	signatures  json.RawMessage // of policy.Signature
	// artifact is the type of an artifact, and files say what its layers are.
	artifact string
	files    []manifest.ArtifactLayer
	// indexes lead to the manifest; image is that.
	indexes []registry.Document
	image   *ocispec.Manifest
	// ids are what the store has the layers under, and keys those of the encrypted
	// ones, nil for others; encrypted describes them for later.
	ids       []digest.Digest
	keys      []*encryption.Key
	encrypted json.RawMessage
}

// resolve follows the name to the manifest for this platform and its
// configuration.
func (p *pull) resolve(ctx context.Context, repo *registry.Repository) (*resolved, error) {
	ref := p.ref
	var r resolved
	for depth := 0; ; depth++ {
		if depth > manifest.MaxIndexDepth {
			return nil, fmt.Errorf("indexes are nested more than %d deep: %w", manifest.MaxIndexDepth, errdefs.ErrInvalidArgument)
		}
		var parsed manifest.Document
		doc, err := repo.Manifest(ctx, ref, manifest.MaxSize, func(d registry.Document) (err error) {
			parsed, err = manifest.Parse(d.Content, d.MediaType)
			return err
		})
		if err != nil {
			return nil, err
		}
		if r.top == "" {
			r.top = doc.Digest
		}
		if parsed.Image != nil {
			r.manifest, r.mediaType, r.image = doc, parsed.MediaType, parsed.Image
			r.layers, r.annotations = parsed.Image.Layers, parsed.Image.Annotations
			if parsed.Artifact != "" {
				return &r, r.describeArtifact(parsed)
			}
			r.id = parsed.Image.Config.Digest
			return &r, p.fetchConfig(ctx, repo, &r, parsed.Image.Config.Size)
		}
		doc.MediaType = parsed.MediaType
		r.indexes = append(r.indexes, doc)
		next, err := manifest.Choose(parsed.Index, p.s.platform)
		if err != nil {
			return nil, err
		}
		ref = ref.WithDigest(next.Digest)
	}
}

// describeArtifact fills in what takes the place of a configuration. Many artifacts
// have the same, empty one: what tells them apart is the manifest.
func (r *resolved) describeArtifact(d manifest.Document) error {
	r.artifact, r.id, r.config = d.Artifact, r.manifest.Digest, []byte("{}")
	// Artifacts without content have one layer that says so.
	r.layers = slices.DeleteFunc(slices.Clone(r.layers), func(l ocispec.Descriptor) bool {
		return l.MediaType == ocispec.MediaTypeEmptyJSON && l.Annotations[ocispec.AnnotationTitle] == ""
	})
	for _, l := range r.layers {
		file, err := manifest.Artifact(l)
		if err != nil {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		r.files = append(r.files, file)
		r.diffIDs = append(r.diffIDs, file.Key(l.Digest))
	}
	return nil
}

func (p *pull) fetchConfig(ctx context.Context, repo *registry.Repository, r *resolved, size int64) error {
	p.stage(ctx, StageConfig)
	var err error
	if r.config, err = repo.Blob(ctx, r.id, size, manifest.MaxConfigSize); err != nil {
		return err
	}
	config, err := manifest.ParseConfig(r.config, len(r.layers))
	if err != nil {
		return err
	}
	if err := manifest.CheckPlatform(config.Image, p.s.platform); err != nil {
		return err
	}
	r.diffIDs = config.DiffIDs
	return nil
}

// checkSignatures has the image policy look at the image's signatures before a layer is
// fetched, and keeps them.
func (p *pull) checkSignatures(ctx context.Context, repo *registry.Repository, r *resolved) error {
	if !p.admitted.NeedsSignatures() {
		return nil
	}
	s := signatures{repo: repo, ref: p.ref, report: func(err error) {
		p.s.log.Warn("a signature is left out", "image", p.ref.String(), "error", err)
	}}
	for _, subject := range slices.Compact([]digest.Digest{r.top, r.manifest.Digest}) {
		if err := s.collect(ctx, subject); err != nil {
			return err
		}
	}
	if err := p.admitted.Check(s.found); err != nil {
		return err
	}
	var err error
	r.signatures, err = json.Marshal(s.found)
	return err
}

// fetchLayers brings all layers into the store and into the lease.
func (p *pull) fetchLayers(ctx context.Context, repo *registry.Repository, r *resolved, lease *store.Lease) error {
	bars := p.progress.layers(r.layers)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(p.s.opts.ParallelLayers)
	seen := map[digest.Digest]bool{}
	for i, desc := range r.layers {
		lease.HoldBlob(desc.Digest)
		id := r.ids[i]
		if seen[id] {
			bars[i].share()
			continue
		}
		seen[id] = true
		g.Go(func() error {
			ctx, traced := operation.Trace(ctx, "layer", "berth.layer.digest", desc.Digest.String())
			req := layerRequest{repo: repo, desc: desc, id: id, key: r.keys[i], bar: bars[i], lease: lease}
			if r.artifact != "" {
				req.file = &r.files[i]
			} else {
				req.diffID = r.diffIDs[i]
			}
			err := p.s.getLayer(ctx, req)
			traced(err)
			if err != nil {
				return fmt.Errorf("layer %d: %w", i, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// record names the image.
func (s *Service) record(ref reference.Reference, userSpecified string, r *resolved) error {
	if len(r.ids) != len(r.layers) {
		return fmt.Errorf("record image %s: its layers were not unlocked: %w", r.id, errdefs.ErrInternal)
	}
	refs := []string{ref.WithDigest(r.top).String()}
	if ref.Tag != "" {
		refs = append(refs, ref.String())
	}
	image := r.record(time.Now())
	image.UserSpecified = userSpecified
	return s.store.PutImage(image, refs, r.config, r.manifest.Content)
}

// record is what the store keeps of the image.
func (r *resolved) record(at time.Time) store.Image {
	return store.Image{
		ID: r.id, Layers: r.ids, Encrypted: r.encrypted,
		ManifestDigest: r.manifest.Digest, MediaType: r.mediaType,
		Artifact:    r.artifact,
		Annotations: r.annotations, Signatures: r.signatures,
		PulledAt: at.UTC(),
		Sources:  []store.Source{r.source()},
	}
}
