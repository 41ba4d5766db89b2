package store

import (
	"fmt"
	"slices"

	"github.com/berth-cri/berth/imageservice/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Source is one way in which an image came: what a name led to, and the blobs on the
// way from there. A blob that it names need not be in the store: layers of which the
// tree was there were not fetched, or their blobs were not to be kept.
type Source struct {
	// Top is what a name stands for: an index, or the manifest.
	Top ocispec.Descriptor `json:"top"`
	// Indexes lead from Top to the manifest, Top first; none if Top is the manifest.
	Indexes []ocispec.Descriptor `json:"indexes,omitempty"`
	// Manifest is that of this node's platform.
	Manifest ocispec.Descriptor   `json:"manifest"`
	Config   ocispec.Descriptor   `json:"config"`
	Layers   []ocispec.Descriptor `json:"layers"`
}

// Documents are the indexes, the manifest and the configuration.
func (s Source) Documents() []ocispec.Descriptor {
	return append(slices.Clone(s.Indexes), s.Manifest, s.Config)
}

// Blobs are the digests of all blobs that keep the image whole, each once.
func (i *Image) Blobs() []digest.Digest {
	var all []digest.Digest
	for _, src := range i.Sources {
		for _, d := range append(src.Documents(), src.Layers...) {
			all = append(all, d.Digest)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Source returns the source that a name of the image leads to, or for another name
// the last one that the image came by. An image recorded without any has none.
func (i *Image) Source(ref string) (Source, bool) {
	for _, n := range i.Names {
		if n.Ref == ref {
			return i.SourceOf(n)
		}
	}
	return i.SourceOf(Name{})
}

// SourceOf is Source for one of the image's names, which may be many.
func (i *Image) SourceOf(n Name) (Source, bool) {
	for _, src := range i.Sources {
		if src.Top.Digest == n.Top {
			return src, true
		}
	}
	for _, src := range slices.Backward(i.Sources) {
		if src.Manifest.Digest == i.ManifestDigest {
			return src, true
		}
	}
	return Source{}, false
}

// nameAnew gives the image its names, of which fresh lead to its one source, and adds
// the sources that the others lead to.
func (i *Image) nameAnew(names []Name, fresh []string, old *Image) {
	i.Names = names
	var top digest.Digest
	if len(i.Sources) > 0 {
		top = i.Sources[0].Top.Digest
	}
	for n := range i.Names {
		if slices.Contains(fresh, i.Names[n].Ref) {
			i.Names[n].Top = top
		}
	}
	if old != nil {
		kept := slices.DeleteFunc(slices.Clone(old.Sources), func(s Source) bool { return s.Top.Digest == top })
		i.Sources = append(kept, i.Sources...)
	}
	i.dropSources()
}

// dropSources forgets the sources that no name leads to, but for the last one.
func (i *Image) dropSources() {
	last := len(i.Sources) - 1
	var kept []Source
	for n, src := range i.Sources {
		if n == last || slices.ContainsFunc(i.Names, func(n Name) bool { return n.Top == src.Top.Digest }) {
			kept = append(kept, src)
		}
	}
	i.Sources = kept
}

// Content is where blobs are read. To write and remove them is the part of leases and
// images.
func (s *Store) Content() *content.Store { return s.content }

// BlobRefs tells how many images and leases refer to a blob.
func (s *Store) BlobRefs(d digest.Digest) int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.blobs[d]
}

// refBlobs adds a reference to each of ds. mu is held.
func (s *Store) refBlobs(ds []digest.Digest) {
	for _, d := range ds {
		s.blobs[d]++
	}
}

// unrefBlobs takes one reference off each of ds and returns those without any. mu is
// held.
func (s *Store) unrefBlobs(ds []digest.Digest) []digest.Digest {
	var trash []digest.Digest
	for _, d := range ds {
		if s.blobs[d]--; s.blobs[d] <= 0 {
			delete(s.blobs, d)
			trash = append(trash, d)
		}
	}
	return trash
}

// takeBlobs moves blobs that nothing refers to into the trash and returns what is left
// to remove. commit is held.
func (s *Store) takeBlobs(ds []digest.Digest) []string {
	var trash []string
	for _, d := range ds {
		if !s.content.Has(d) {
			continue
		}
		dir, err := s.takeAway(s.content.Path(d))
		if err != nil {
			s.log.Warn("remove a blob", "blob", d, "error", err)
			continue
		}
		s.content.Forget(d)
		trash = append(trash, dir)
	}
	return trash
}

// disposeBlobs removes blobs that nothing refers to. It is called with commit held,
// and gives it up.
func (s *Store) disposeBlobs(ds []digest.Digest) error {
	return s.dispose(nil, s.takeBlobs(ds)...)
}

// DropBlob removes a blob that is damaged, whoever refers to it: they have it again
// when it comes back. It is idempotent.
func (s *Store) DropBlob(d digest.Digest) error {
	s.commit.Lock()
	return s.disposeBlobs([]digest.Digest{d})
}

// dropBlobs removes from sight the blobs that nothing refers to.
func (s *Store) dropBlobs() error {
	list, err := s.content.List()
	if err != nil {
		return err
	}
	for _, b := range list {
		if s.blobs[b.Digest] > 0 {
			continue
		}
		if err := s.discard(s.content.Path(b.Digest)); err != nil {
			return err
		}
	}
	return nil
}

// HoldBlob takes the blob into the lease and tells whether the store has it. It is
// in the lease also if not: it may come.
func (l *Lease) HoldBlob(d digest.Digest) bool {
	l.s.commit.Lock()
	defer l.s.commit.Unlock()
	l.refBlob(d)
	return l.s.content.Has(d)
}

func (l *Lease) refBlob(d digest.Digest) {
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.s.blobs[d]++
	l.blobs = append(l.blobs, d)
}

// PutBlob writes a small blob that is in memory; it is in the lease then. Content that
// is not what the digest says is content.ErrCorrupt.
func (l *Lease) PutBlob(d digest.Digest, raw []byte) error {
	if l.HoldBlob(d) {
		return nil
	}
	w, err := l.s.content.Writer(d, int64(len(raw)))
	if err != nil {
		return err
	}
	if _, err := w.Write(raw); err != nil {
		w.Abort()
		return err
	}
	_, err = l.Commit(w)
	return err
}

// Commit verifies what was written and moves it into the store and into the lease.
func (l *Lease) Commit(w *content.Writer) (digest.Digest, error) {
	l.s.commit.Lock()
	defer l.s.commit.Unlock()
	d, err := w.Commit()
	if err != nil {
		return "", err
	}
	l.refBlob(d)
	return d, nil
}

// adopt moves a file that holds the blob into the store and into the lease.
func (l *Lease) adopt(path string, d digest.Digest) error {
	l.s.commit.Lock()
	defer l.s.commit.Unlock()
	if err := l.s.content.Adopt(path, d); err != nil {
		return fmt.Errorf("keep blob %s: %w", d, err)
	}
	l.refBlob(d)
	return nil
}
