package imagetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
)

// A SigningKey signs images, as a publisher's does.
type SigningKey struct{ *ecdsa.PrivateKey }

// NewSigningKey makes a P-256 key.
func NewSigningKey() (SigningKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return SigningKey{key}, err
}

// PublicPEM is the public half as verifiers read it.
func (k SigningKey) PublicPEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// SignContent returns the signature of content's SHA-256.
func (k SigningKey) SignContent(content []byte) ([]byte, error) {
	sum := sha256.Sum256(content)
	return k.Sign(rand.Reader, sum[:], crypto.SHA256)
}
