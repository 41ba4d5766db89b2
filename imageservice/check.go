package imageservice

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/berth-cri/berth/imageservice/inventory"
	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/berth-cri/berth/imageservice/registry"
	"github.com/berth-cri/berth/imageservice/store"
	"github.com/berth-cri/berth/operation"
)

// What Check says of an image or a layer.
const (
	CheckIntact     = "intact"
	CheckDamaged    = "damaged"
	CheckRepaired   = "repaired"
	CheckUnverified = "unverified" // nobody knows what it should hold
)

// The kinds of what Check looks at.
const (
	CheckImage = "image" // its record, configuration and manifest
	CheckLayer = "layer"
	CheckBlob  = "blob" // as it came from the registry
)

// CheckOptions say what Check looks at and does.
type CheckOptions struct {
	// Images are names or IDs; none is all, and the layers of containers and
	// volumes whose images are gone.
	Images []string
	Repair bool
	// Quick compares layers with their inventories only. Else those whose blob is kept
	// are also unpacked from it once more, beside, which proves their DiffIDs.
	Quick bool
}

// Finding is what Check says of one thing.
type Finding struct {
	Kind, ID string
	Images   []string // names, or else IDs, of the images that it belongs to
	State    string
	// Detail tells what was done, or why nothing could be.
	Detail   string
	Problems []string
	Bytes    uint64 // read
}

// Check reads everything that is kept of images and compares it with what was
// verified when it was pulled. What is found is told to report, one after the other;
// an error of report ends it. With Repair, what is damaged is fetched again.
//
// Containers run on: nothing changes under one that has a damaged layer mounted, it
// goes on with that one, and those that are made from then on get the repaired one.
// An image that is not there is errdefs.ErrNotFound.
func (s *Service) Check(ctx context.Context, o CheckOptions, report func(Finding) error) error {
	ctx, done, err := s.beginWork(ctx)
	if err != nil {
		return err
	}
	defer done()
	s.checking.Lock()
	defer s.checking.Unlock()
	images, err := s.imagesToCheck(o.Images)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	// Layers have an inventory when they are on the disk.
	if _, err := s.store.Sync(ctx); err != nil {
		s.log.Warn("bring layers to the disk", "error", err)
	}
	c := checker{s: s, repair: o.Repair, quick: o.Quick, report: report}
	for _, img := range images {
		if err := c.image(ctx, img); err != nil {
			return err
		}
	}
	for _, d := range s.blobsToCheck(images) {
		if err := c.blob(ctx, d); err != nil {
			return err
		}
	}
	for _, id := range s.layersToCheck(images, len(o.Images) == 0) {
		if err := c.layer(ctx, id); err != nil {
			return err
		}
	}
	if !o.Repair {
		return nil
	}
	s.markDirty()
	return s.store.Reconcile(ctx)
}

func (s *Service) imagesToCheck(names []string) ([]*store.Image, error) {
	if len(names) == 0 {
		return s.store.Images(), nil
	}
	var images []*store.Image
	for _, name := range names {
		img, err := s.lookup(name)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(images, func(i *store.Image) bool { return i.ID == img.ID }) {
			images = append(images, img)
		}
	}
	return images, nil
}

func (s *Service) layersToCheck(images []*store.Image, all bool) []digest.Digest {
	set := map[digest.Digest]bool{}
	for _, img := range images {
		for _, id := range img.Layers {
			set[id] = true
		}
	}
	if all {
		for _, l := range s.store.Layers() {
			set[l.DiffID] = true
		}
	}
	list := make([]digest.Digest, 0, len(set))
	for id := range set {
		list = append(list, id)
	}
	sort.Slice(list, func(i, j int) bool { return list[i] < list[j] })
	return list
}

// checker is one run of Check.
type checker struct {
	s      *Service
	repair bool
	quick  bool
	report func(Finding) error
}

func (c *checker) image(ctx context.Context, img *store.Image) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	f := Finding{Kind: CheckImage, ID: img.ID.String(), Images: []string{imageName(img)}, State: CheckIntact, Bytes: uint64(img.ConfigSize)}
	if err := c.s.store.CheckImage(img.ID); err != nil {
		f.State, f.Problems = CheckDamaged, []string{err.Error()}
		c.mend(&f, func() (string, error) { return "fetched again", c.s.rewriteImage(ctx, img) })
	}
	return c.report(f)
}

// mend repairs, if that is asked for, and writes down how it went.
func (c *checker) mend(f *Finding, do func() (string, error)) {
	if !c.repair {
		return
	}
	detail, err := do()
	if err != nil {
		f.Detail = "not repaired: " + err.Error()
		return
	}
	f.State, f.Detail = CheckRepaired, detail
	c.s.counters.repaired.Add(1)
	c.s.log.Info("repaired", f.Kind, f.ID, "problems", f.Problems, "how", detail)
}

func imageName(img *store.Image) string {
	if refs := img.Refs(); len(refs) > 0 {
		sort.Slice(refs, func(i, j int) bool { return len(refs[i]) < len(refs[j]) })
		return refs[0]
	}
	return img.ID.String()
}

// rewriteImage fetches what is kept of an image beside its layers again.
func (s *Service) rewriteImage(ctx context.Context, img *store.Image) error {
	return s.atSources(ctx, img, func(repo *registry.Repository, ref reference.Reference) error {
		doc, err := repo.Manifest(ctx, ref, manifest.MaxSize, nil)
		if err != nil {
			return err
		}
		config := []byte("{}")
		if img.Artifact == "" {
			if config, err = repo.Blob(ctx, img.ID, img.ConfigSize, manifest.MaxConfigSize); err != nil {
				return err
			}
		}
		return s.store.RewriteImage(img.ID, config, doc.Content)
	})
}

func (c *checker) layer(ctx context.Context, id digest.Digest) (err error) {
	ctx, end := operation.Stage(ctx, "check layer", "berth.layer.diffid", id.String())
	defer func() { end(err) }()
	f := Finding{Kind: CheckLayer, ID: id.String(), Images: c.s.imagesOf(id), State: CheckIntact}
	if err := c.s.store.Present(id); errors.Is(err, errdefs.ErrNotFound) {
		return nil // removed meanwhile
	} else if err != nil {
		f.State, f.Problems = CheckDamaged, []string{err.Error()}
		c.mend(&f, func() (string, error) { return "fetched again", c.s.restoreLayer(ctx, id, err) })
		return c.report(f)
	}
	found, err := c.s.store.CheckLayer(ctx, id)
	f.Bytes = found.Usage.Bytes
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, errdefs.ErrNotFound):
		return nil
	case errors.Is(err, store.ErrUnverifiable):
		f.State, f.Detail = CheckUnverified, err.Error()
	case err != nil:
		f.State, f.Problems = CheckDamaged, []string{err.Error()}
	case !found.Same():
		f.State, f.Problems = CheckDamaged, problems(found)
	default:
		c.prove(ctx, id, &f)
		if f.State != CheckDamaged {
			return c.report(f)
		}
	}
	c.mend(&f, func() (string, error) { return c.s.replaceLayer(ctx, id) })
	return c.report(f)
}

// prove has a layer that is as its inventory says held against its blob.
func (c *checker) prove(ctx context.Context, id digest.Digest, f *Finding) {
	f.Detail = "as its inventory says"
	if c.quick {
		return
	}
	switch err := c.s.proveLayer(ctx, id); {
	case err == nil:
		f.Detail = "as its DiffID says"
	case errors.Is(err, errOther):
		f.State, f.Detail, f.Problems = CheckDamaged, "", []string{err.Error()}
	case !errors.Is(err, errNotKept) && ctx.Err() == nil:
		f.Detail += "; its DiffID was not verified: " + err.Error()
	}
}

// blobsToCheck are the kept blobs of the images.
func (s *Service) blobsToCheck(images []*store.Image) []digest.Digest {
	var list []digest.Digest
	for _, img := range images {
		for _, d := range img.Blobs() {
			if s.store.Content().Has(d) {
				list = append(list, d)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (c *checker) blob(ctx context.Context, d digest.Digest) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	f := Finding{Kind: CheckBlob, ID: d.String(), State: CheckIntact}
	for _, img := range c.s.store.Images() {
		if slices.Contains(img.Blobs(), d) {
			f.Images = append(f.Images, imageName(img))
		}
	}
	if info, err := c.s.store.Content().Stat(d); err == nil {
		f.Bytes = uint64(info.Size)
	}
	err := c.s.store.Content().Verify(d)
	if errors.Is(err, errdefs.ErrNotFound) {
		return nil // removed meanwhile
	}
	if err != nil {
		f.State, f.Problems = CheckDamaged, []string{err.Error()}
		c.mend(&f, func() (string, error) { return "fetched again", c.s.refetchBlob(ctx, d) })
	}
	return c.report(f)
}

func problems(r inventory.Report) []string {
	list := make([]string, 0, len(r.Differences)+1)
	for _, d := range r.Differences {
		list = append(list, d.String())
	}
	if r.More > 0 {
		list = append(list, fmt.Sprintf("and %d more", r.More))
	}
	return list
}

// imagesOf are the images that have the layer.
func (s *Service) imagesOf(id digest.Digest) []string {
	var names []string
	for _, img := range s.store.Images() {
		if slices.Contains(img.Layers, id) {
			names = append(names, imageName(img))
		}
	}
	return names
}

// replaceLayer fetches a layer that is there again and puts it in its place.
func (s *Service) replaceLayer(ctx context.Context, id digest.Digest) (detail string, err error) {
	lease := s.store.Lease()
	defer func() { err = errors.Join(err, lease.Release()) }()
	if _, ok := lease.Hold(id); !ok {
		return "", fmt.Errorf("layer %s: %w", id, errdefs.ErrNotFound)
	}
	users := 0
	err = s.refetch(ctx, id, lease, func(in *store.Ingest, rec store.Layer) (err error) {
		users, err = in.Replace(rec)
		return err
	})
	if err != nil {
		return "", err
	}
	s.markDirty()
	if users > 0 {
		return fmt.Sprintf("fetched again; %d containers or volumes that use the damaged one keep it until they are removed", users), nil
	}
	return "fetched again", nil
}
