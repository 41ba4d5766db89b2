package encryption

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"hash"
)

// Cipher deciphers one reading of a blob, in place and piece by piece.
type Cipher struct {
	stream cipher.Stream
	mac    hash.Hash
	want   []byte
}

// Cipher begins at the blob's first byte. Each is for one reading.
func (k *Key) Cipher() (*Cipher, error) {
	block, err := aes.NewCipher(k.key)
	if err != nil {
		return nil, err
	}
	return &Cipher{stream: cipher.NewCTR(block, k.nonce), mac: hmac.New(sha256.New, k.key), want: k.mac}, nil
}

// Decrypt deciphers the next piece in place.
func (c *Cipher) Decrypt(piece []byte) {
	c.mac.Write(piece)
	c.stream.XORKeyStream(piece, piece)
}

// errForged tells nothing of the two values: they are of no use to anybody.
var errForged = errors.New("content was not enciphered with the key that the manifest has for it")

// Verify tells, after the last piece, whether all of it was what the owner of the
// key had enciphered.
func (c *Cipher) Verify() error {
	if !hmac.Equal(c.mac.Sum(nil), c.want) {
		return errForged
	}
	return nil
}
