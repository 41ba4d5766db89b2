package imageservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/policy"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/berth-cri/berth/imageservice/registry"
	"github.com/berth-cri/berth/imageservice/store"
	"github.com/berth-cri/berth/operation"
)

// PushOptions say where an image goes. Zero values mean the defaults.
type PushOptions struct {
	// Target is what the registry is to call the image; its own name by default.
	Target string
	// Auth are credentials for the registry; the node's own by default.
	Auth *runtimeapi.AuthConfig
	// Progress, when not nil, is told how far the blobs have come, now and then and at
	// the end.
	Progress func([]PushedBlob)
}

// PushedBlob is how far one blob of a push has come.
type PushedBlob struct {
	Digest     digest.Digest
	Size, Sent int64
	Done       bool
	Existed    bool // the registry had it, or took it from another repository
}

// Pushed is what a push has brought about.
type Pushed struct {
	Target string        // the whole name
	Digest digest.Digest // that it leads to
	// Note says what of the image was not pushed; "" for nothing.
	Note string
}

// Push brings an image to a registry. The blobs are those that came, with their digests; one
// that was not kept is ErrDiscarded. If name leads to an index, the registry gets that
// too, provided that all its images are on this node; else it gets the manifest of this
// platform, which the note tells. Signatures that were kept of what is pushed go with it. The
// target's tag is written last.
//
// Errors are errdefs.ErrUnavailable for a registry that cannot be reached, and those that
// the registry answers.
func (s *Service) Push(ctx context.Context, name string, o PushOptions) (Pushed, error) {
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return Pushed{}, fmt.Errorf("push image %q: %w", name, err)
	}
	defer end()
	lease := s.store.Lease()
	defer func() {
		if err := lease.Release(); err != nil {
			s.log.Warn("release the blobs of a pushed image", "error", err)
		}
	}()
	p, err := s.newPush(name, o.Target, lease)
	if err != nil {
		return Pushed{}, fmt.Errorf("push image %q: %w", name, err)
	}
	if err := p.run(ctx, o); err != nil {
		if errors.Is(err, registry.ErrUnavailable) {
			err = fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
		}
		return Pushed{}, fmt.Errorf("push image %q to %s: %w", name, p.target, err)
	}
	done := Pushed{Target: p.target.String(), Digest: p.documents[len(p.documents)-1].Digest, Note: p.note}
	s.log.Info("pushed image", "image", name, "target", done.Target, "digest", done.Digest)
	return done, nil
}

// pushing is one call of Push.
type pushing struct {
	s      *Service
	target reference.Reference
	blobs  []*pushBlob
	// documents are the manifest and the indexes that lead to it, in the order in which
	// they are pushed: each names what is there by then.
	documents  []ocispec.Descriptor
	signatures []policy.Signature
	note       string
}

type pushBlob struct {
	ocispec.Descriptor
	from          string // a repository of the registry that has it, or ""
	sent          atomic.Int64
	done, existed atomic.Bool
}

// newPush finds out what there is to push, with the lease holding it.
func (s *Service) newPush(name, target string, lease *store.Lease) (*pushing, error) {
	images, err := s.leave([]string{name}, lease)
	if err != nil {
		return nil, err
	}
	p, src := &pushing{s: s}, images[0].src
	switch {
	case target != "":
		if p.target, err = reference.Parse(target); err != nil {
			return nil, err
		}
	case len(images) > 1 || images[0].ref == nil:
		return nil, fmt.Errorf("the image is not called by one name: say where to push it to: %w", errdefs.ErrInvalidArgument)
	default:
		p.target = *images[0].ref
	}
	for _, d := range append([]ocispec.Descriptor{src.Config}, src.Layers...) {
		if !slices.ContainsFunc(p.blobs, func(b *pushBlob) bool { return b.Digest == d.Digest }) {
			p.blobs = append(p.blobs, &pushBlob{Descriptor: d})
		}
	}
	if err := p.chain(src); err != nil {
		return nil, err
	}
	if p.signatures, err = storedSignatures(images[0].image); err != nil {
		return nil, err
	}
	if top := p.documents[len(p.documents)-1].Digest; p.target.Digest != "" && p.target.Digest != top {
		return nil, fmt.Errorf("the target names digest %s, what is pushed has %s: %w", p.target.Digest, top, errdefs.ErrInvalidArgument)
	}
	return p, nil
}

// chain finds which documents are pushed.
func (p *pushing) chain(src store.Source) error {
	p.documents = []ocispec.Descriptor{src.Manifest}
	for _, index := range slices.Backward(src.Indexes) {
		raw, err := p.read(index)
		if err != nil {
			return err
		}
		doc, err := manifest.Parse(raw, index.MediaType)
		if err != nil {
			return fmt.Errorf("index %s: %w", index.Digest, err)
		}
		below := p.documents[len(p.documents)-1].Digest
		if slices.ContainsFunc(doc.Index.Manifests, func(m ocispec.Descriptor) bool { return m.Digest != below }) {
			p.documents = p.documents[:1]
			p.tell(fmt.Sprintf("of the index %s this node has only the image of its platform: its manifest was pushed", src.Top.Digest))
			return nil
		}
		p.documents = append(p.documents, index)
	}
	return nil
}

func (p *pushing) tell(note string) {
	if p.note != "" {
		p.note += "; "
	}
	p.note += note
}

// read reads a document and verifies it.
func (p *pushing) read(d ocispec.Descriptor) ([]byte, error) {
	b, err := p.s.store.Content().Open(d.Digest)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return io.ReadAll(b.Reader(d.Digest))
}

func (p *pushing) run(ctx context.Context, o PushOptions) error {
	repo, err := p.s.openRepository(ctx, p.target, authFor(p.target, o.Auth), registry.Options{Push: true, MountFrom: p.findMounts()})
	if err != nil {
		return err
	}
	defer repo.Close()
	if o.Progress != nil {
		defer p.watch(o.Progress)()
	}
	g, uploading := errgroup.WithContext(ctx)
	g.SetLimit(p.s.opts.ParallelLayers)
	for _, b := range p.blobs {
		g.Go(func() error {
			ctx, traced := operation.Stage(uploading, "push blob", "berth.layer.digest", b.Digest.String())
			err := p.upload(ctx, repo, b)
			traced(err)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	// Whoever pulls by the tag may ask for the signatures at once. Some registries take no
	// manifests but those of images.
	if err := p.pushSignatures(ctx, repo); err != nil {
		if ctx.Err() != nil || errors.Is(err, registry.ErrUnavailable) {
			return err
		}
		p.tell("the registry has not taken all signatures: " + err.Error())
	}
	for i, d := range p.documents {
		raw, err := p.read(d)
		if err != nil {
			return err
		}
		ref := p.target.WithDigest(d.Digest)
		if i == len(p.documents)-1 {
			ref = p.target
		}
		if err := repo.PutManifest(ctx, ref, d.MediaType, raw); err != nil {
			return err
		}
	}
	return nil
}

// findMounts finds repositories of the target's registry that have blobs of the image, as
// far as this node knows, and lists them.
func (p *pushing) findMounts() []string {
	const most = 3 // each is asked for in the token
	var list []string
	for _, img := range p.s.store.Images() {
		for _, name := range img.Refs() {
			ref, err := reference.Parse(name)
			src, ok := img.Source(name)
			if err != nil || !ok || ref.Domain != p.target.Domain || ref.Path == p.target.Path {
				continue
			}
			for _, b := range p.blobs {
				if b.from != "" || !slices.ContainsFunc(append([]ocispec.Descriptor{src.Config}, src.Layers...), func(d ocispec.Descriptor) bool { return d.Digest == b.Digest }) {
					continue
				}
				if !slices.Contains(list, ref.Path) {
					if len(list) == most {
						continue
					}
					list = append(list, ref.Path)
				}
				b.from = ref.Path
			}
		}
	}
	return list
}

func (p *pushing) upload(ctx context.Context, repo *registry.Repository, b *pushBlob) error {
	existed, err := repo.Upload(ctx, registry.Upload{
		Digest: b.Digest, Size: b.Size, From: b.from, Sent: b.sent.Store,
		Open: func() (io.ReadCloser, error) { return p.s.store.Content().Open(b.Digest) },
	})
	if err != nil {
		return err
	}
	b.existed.Store(existed)
	b.done.Store(true)
	return nil
}

// watch tells the progress until the function that it returns is called, which tells it
// a last time.
func (p *pushing) watch(tell func([]PushedBlob)) (end func()) {
	const interval = 100 * time.Millisecond
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			tell(p.progress())
			select {
			case <-tick.C:
			case <-stop:
				tell(p.progress())
				return
			}
		}
	}()
	return func() {
		close(stop)
		<-stopped
	}
}

func (p *pushing) progress() []PushedBlob {
	list := make([]PushedBlob, len(p.blobs))
	for i, b := range p.blobs {
		list[i] = PushedBlob{Digest: b.Digest, Size: b.Size, Sent: b.sent.Load(), Done: b.done.Load(), Existed: b.existed.Load()}
	}
	return list
}
