package encryption

import (
	"crypto/aes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containers/ocicrypt/blockcipher"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// keySize is that of AES-256.
const keySize = 32

// Key is the key of one layer.
type Key struct {
	blob       digest.Digest
	key, nonce []byte
	mac        []byte // that the enciphered bytes must have
}

// newKey reads what a recipient found and what the manifest says beside it.
func newKey(d ocispec.Descriptor, private []byte) (*Key, error) {
	var o blockcipher.LayerBlockCipherOptions
	// What is in there is secret: errors of the decoder could repeat it.
	if json.Unmarshal(private, &o.Private) != nil {
		return nil, errors.New("the unwrapped key is not in ocicrypt's form")
	}
	public, err := base64.StdEncoding.DecodeString(d.Annotations[publicOptions])
	if err != nil {
		return nil, fmt.Errorf("annotation %s: %w", publicOptions, err)
	}
	if err := json.Unmarshal(public, &o.Public); err != nil {
		return nil, fmt.Errorf("annotation %s: %w", publicOptions, err)
	}
	if o.Public.CipherType != blockcipher.AES256CTR {
		return nil, fmt.Errorf("annotation %s: cipher %.100q is not known", publicOptions, o.Public.CipherType)
	}
	nonce, _ := o.GetOpt("nonce")
	switch {
	case len(o.Private.SymmetricKey) != keySize:
		return nil, fmt.Errorf("the unwrapped key has %d bytes, not %d", len(o.Private.SymmetricKey), keySize)
	case len(nonce) != aes.BlockSize:
		return nil, fmt.Errorf("nonce of %d bytes, not %d", len(nonce), aes.BlockSize)
	case len(o.Public.Hmac) != sha256.Size:
		return nil, fmt.Errorf("annotation %s: HMAC of %d bytes, not %d", publicOptions, len(o.Public.Hmac), sha256.Size)
	}
	return &Key{blob: d.Digest, key: o.Private.SymmetricKey, nonce: nonce, mac: o.Public.Hmac}, nil
}

// Identity is what a decrypted layer is kept under, in place of its DiffID: the
// DiffID, which any image's configuration can name, bound to the blob and to the key
// that opened it. Who does not have that key finds no layer by it, whatever
// manifest, configuration or wrapped key he makes up.
func (k *Key) Identity(diffID digest.Digest) digest.Digest {
	proof := hmac.New(sha256.New, k.key)
	proof.Write([]byte("berth layer identity\x00"))
	proof.Write(k.nonce)
	proof.Write(k.mac)
	return digest.FromString(fmt.Sprintf("encrypted layer\x00%s\x00%s\x00%s", k.blob, diffID, hex.EncodeToString(proof.Sum(nil))))
}

// invalid gives a mistake in a manifest its kind.
func invalid(err error) error {
	return fmt.Errorf("encrypted layer: %w: %w", err, errdefs.ErrInvalidArgument)
}
