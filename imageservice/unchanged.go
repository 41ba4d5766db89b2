package imageservice

import (
	"context"

	"github.com/berth-cri/berth/imageservice/registry"
	"github.com/opencontainers/go-digest"
)

// unchanged tells whether the name still leads to the image that it led to at the
// last pull, and returns that image's ID. It costs one HEAD, which also sees to it
// that these credentials may have the image. Whatever stands against it, a host
// that does not answer for example, is found again by the pull that follows.
func (p *pull) unchanged(ctx context.Context, repo *registry.Repository) (digest.Digest, bool) {
	img, err := p.s.store.ByName(p.ref.String())
	if err != nil || img.UserSpecified != p.spec.GetUserSpecifiedImage() {
		return "", false
	}
	// Signatures may have come, or a key gone, since: those are looked at as kept.
	signatures, err := storedSignatures(img)
	if err != nil || p.admitted.NeedsSignatures() && p.admitted.Check(signatures) != nil {
		return "", false
	}
	if p.s.decryption.allows(img) != nil {
		return "", false
	}
	top, err := repo.Head(ctx, p.ref)
	if err != nil {
		p.s.log.Debug("image cannot be asked for", "image", p.ref.String(), "error", err)
		return "", false
	}
	same, err := p.s.store.ByName(p.ref.WithDigest(top).String())
	if err != nil || same.ID != img.ID {
		return "", false
	}
	if !p.s.hasDocuments(img, p.ref.String()) {
		return "", false
	}
	for _, id := range img.Layers {
		if _, err := p.s.store.Layer(id); err != nil {
			return "", false
		}
	}
	return img.ID, true
}
