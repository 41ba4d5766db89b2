package encryption

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/containers/ocicrypt/config"
	"github.com/containers/ocicrypt/keywrap"
	"github.com/containers/ocicrypt/keywrap/jwe"
	"github.com/containers/ocicrypt/keywrap/pkcs7"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxWrapped bounds the wrapped keys of one layer: each costs a try with each of the
// node's keys.
const maxWrapped = 256 << 10

// wrappers are the schemes that can be opened with keys in files.
var wrappers = map[string]keywrap.KeyWrapper{"jwe": jwe.NewKeyWrapper(), "pkcs7": pkcs7.NewKeyWrapper()}

// Unwrap opens the key of a layer with one of the node's. The error is ErrNoKey if
// there is none that can, and errdefs.ErrInvalidArgument for a layer whose
// description makes no sense.
func (k *Keys) Unwrap(d ocispec.Descriptor) (*Key, error) {
	names := schemes(d)
	if len(names) == 0 {
		return nil, invalid(fmt.Errorf("it is of type %q and has no annotation with its key", d.MediaType))
	}
	ring := k.current()
	for _, name := range names {
		wrapper, known := wrappers[name]
		if !known {
			continue
		}
		packets := d.Annotations[keysPrefix+name]
		if len(packets) > maxWrapped {
			return nil, invalid(fmt.Errorf("its wrapped keys are longer than %d bytes", maxWrapped))
		}
		for packet := range strings.SplitSeq(packets, ",") {
			content, err := base64.StdEncoding.DecodeString(packet)
			if err != nil {
				return nil, invalid(fmt.Errorf("annotation %s%s: %w", keysPrefix, name, err))
			}
			private := unwrapOne(wrapper, ring, content)
			if private == nil {
				continue
			}
			key, err := newKey(d, private)
			if err != nil {
				return nil, invalid(err)
			}
			return key, nil
		}
	}
	return nil, k.noKey(ring, names)
}

// unwrapOne returns nil if no key fits. Whatever else is wrong with a packet, it is
// not for this node.
func unwrapOne(wrapper keywrap.KeyWrapper, ring *ring, packet []byte) (private []byte) {
	if len(ring.private) == 0 {
		return nil
	}
	defer func() {
		// The parsers are given what a stranger wrote.
		if recover() != nil {
			private = nil
		}
	}()
	private, err := wrapper.UnwrapKey(&config.DecryptConfig{Parameters: map[string][][]byte{
		"privkeys": ring.private, "privkeys-passwords": make([][]byte, len(ring.private)), "x509s": ring.certificates,
	}}, packet)
	if err != nil {
		return nil
	}
	return private
}

func (k *Keys) noKey(ring *ring, names []string) error {
	wrapped := "its key is wrapped by " + strings.Join(names, ", ")
	switch {
	case k.dir == "":
		return fmt.Errorf("layer is encrypted and images.decryptionKeysDir is not set (%s): %w", wrapped, ErrNoKey)
	default:
		return fmt.Errorf("layer is encrypted, tried %d keys of %s (%s): %w", len(ring.private), k.dir, wrapped, ErrNoKey)
	}
}
