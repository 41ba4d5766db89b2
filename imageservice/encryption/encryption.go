// Package encryption opens the encrypted layers of images, in the form of ocicrypt
// and imgcrypt: media types that end in "+encrypted", the layer's own key wrapped
// for its recipients in annotations, as JWE or PKCS #7, and the content enciphered
// with AES-256-CTR under an HMAC.
//
// Keys are in memory and nowhere else: no error, log line or record has one.
package encryption

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Suffix ends the media type of an encrypted layer.
const Suffix = "+encrypted"

const (
	annotationPrefix = "org.opencontainers.image.enc."
	keysPrefix       = annotationPrefix + "keys."
	publicOptions    = annotationPrefix + "pubopts"
)

// ErrNoKey marks a layer that none of the node's keys opens. It comes with
// errdefs.ErrPermissionDenied.
var ErrNoKey = fmt.Errorf("no decryption key of this node opens it: %w", errdefs.ErrPermissionDenied)

// Encrypted tells whether a layer is encrypted.
func Encrypted(d ocispec.Descriptor) bool {
	return strings.HasSuffix(d.MediaType, Suffix)
}

// Wrapped tells whether annotations hold keys: what is called encrypted and has
// none is some other kind of encryption, if any.
func Wrapped(d ocispec.Descriptor) bool { return len(schemes(d)) > 0 }

// schemes are the ways in which a layer's key is wrapped, in order.
func schemes(d ocispec.Descriptor) []string {
	var names []string
	for name, value := range d.Annotations {
		if scheme, ok := strings.CutPrefix(name, keysPrefix); ok && value != "" {
			names = append(names, scheme)
		}
	}
	slices.Sort(names)
	return names
}

// Stripped is what of a descriptor is needed to open the layer again.
func Stripped(d ocispec.Descriptor) ocispec.Descriptor {
	s := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, Annotations: map[string]string{}}
	for name, value := range d.Annotations {
		if strings.HasPrefix(name, annotationPrefix) {
			s.Annotations[name] = value
		}
	}
	return s
}
