package imageservice

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/berth-cri/berth/imageservice/policy"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/berth-cri/berth/imageservice/store"
)

// admission keeps the policy in force. It is read again when its file has changed; one
// that cannot be read leaves the old one in force.
type admission struct {
	path string // empty: there is no policy
	log  *slog.Logger

	mu      sync.Mutex
	current *policy.Policy
	stamp   stamp
}

// stamp tells one state of a file from another.
type stamp struct {
	size    int64
	changed time.Time
}

func newAdmission(path string, log *slog.Logger) (*admission, error) {
	a := &admission{path: path, log: log}
	if path == "" {
		return a, nil
	}
	var err error
	if a.stamp, err = stampOf(path); err != nil {
		return nil, err
	}
	if a.current, err = policy.Load(path); err != nil {
		return nil, err
	}
	return a, nil
}

func stampOf(path string) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, fmt.Errorf("read image policy: %w", err)
	}
	return stamp{info.Size(), info.ModTime()}, nil
}

func (a *admission) policy() *policy.Policy {
	if a.path == "" {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now, err := stampOf(a.path)
	if err == nil && now == a.stamp {
		return a.current
	}
	a.stamp = now
	if err == nil {
		var next *policy.Policy
		if next, err = policy.Load(a.path); err == nil {
			a.current = next
			a.log.Info("image policy was read", "file", a.path)
			return next
		}
	}
	a.log.Error("the image policy before stays in force", "error", err)
	return a.current
}

// Admit implements the part of an image policy that concerns a container's start: it
// returns nil if pods of the namespace may use the image. name is what the pod calls
// the image; where that is none of the image's names, the policy has to allow one of
// those. The signatures that were found when it was pulled are verified again, with
// the keys of today. Policy or not, the node needs to have the keys of encrypted layers
// now, whoever had them decrypted; without, the error is errdefs.ErrPermissionDenied.
//
// A refusal is errdefs.ErrPermissionDenied with the word SignatureValidationFailed. It is
// not the kubelet's error of that name, which is for pulls alone and has no code.
func (s *Service) Admit(_ context.Context, image, name, namespace string) error {
	img, err := s.lookup(image)
	if err != nil {
		return fmt.Errorf("admit image %q: %w", image, err)
	}
	if err := s.decryption.allows(img); err != nil {
		return fmt.Errorf("image %s: %w", img.ID, err)
	}
	p := s.admission.policy()
	if p == nil {
		return nil
	}
	signatures, err := storedSignatures(img)
	if err != nil {
		return fmt.Errorf("admit image %q: %w", image, err)
	}
	var refused []error
	for _, ref := range namesToAdmit(img, name) {
		err := p.Decide(ref, namespace).Check(signatures)
		if err == nil {
			return nil
		}
		refused = append(refused, fmt.Errorf("as %q: %w", ref, err))
	}
	return fmt.Errorf("%s: image %s: %w", crierrors.ErrSignatureValidationFailed, img.ID, errors.Join(refused...))
}

// namesToAdmit is what a pod calls the image if the image was pulled from there, else
// all of its names.
func namesToAdmit(img *store.Image, name string) []reference.Reference {
	asked, err := reference.Parse(name)
	var all []reference.Reference
	for _, text := range img.Refs() {
		ref, parseErr := reference.Parse(text)
		if parseErr != nil {
			continue
		}
		if err == nil && ref.Repository() == asked.Repository() {
			return []reference.Reference{asked}
		}
		all = append(all, ref)
	}
	if len(all) == 0 {
		return []reference.Reference{{}} // of no registry
	}
	return all
}

func storedSignatures(img *store.Image) ([]policy.Signature, error) {
	if len(img.Signatures) == 0 {
		return nil, nil
	}
	var all []policy.Signature
	if err := json.Unmarshal(img.Signatures, &all); err != nil {
		return nil, fmt.Errorf("read signatures of image %s: %w", img.ID, err)
	}
	return all, nil
}
