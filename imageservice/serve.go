package imageservice

import (
	"github.com/berth-cri/berth/imageservice/noderegistry"
	"github.com/berth-cri/berth/imageservice/policy"
	"github.com/berth-cri/berth/imageservice/reference"
)

// NodeRegistry makes the server of this node's images for other nodes. Images and
// Allowed of o are filled in: what the image policy denies for pods of no namespace is
// not served either. The caller runs it.
func (s *Service) NodeRegistry(o noderegistry.Options) (*noderegistry.Server, error) {
	o.Images = s.store
	o.Allowed = func(ref reference.Reference) bool {
		return s.admission.policy().Decide(ref, "").Action != policy.Deny
	}
	return noderegistry.New(o)
}
