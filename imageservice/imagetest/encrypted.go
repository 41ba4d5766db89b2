package imagetest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"time"

	"github.com/containers/ocicrypt"
	"github.com/containers/ocicrypt/config"
	"github.com/opencontainers/go-digest"
)

// Recipient is one for whom layers are encrypted.
type Recipient struct {
	// PrivateKey is in PEM, PKCS #8; Certificate too, nil for a recipient of JWE.
	PrivateKey, Certificate []byte
	publicKey               []byte
}

// NewRecipient makes a recipient of JWE with an elliptic curve key.
func NewRecipient() (*Recipient, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return newRecipient(key, key.Public())
}

// NewCertificateRecipient makes a recipient of PKCS #7 with an RSA key.
func NewCertificateRecipient() (*Recipient, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	r, err := newRecipient(key, key.Public())
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "node"},
		NotBefore: Epoch, NotAfter: Epoch.AddDate(100, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	r.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return r, nil
}

func newRecipient(private, public any) (*Recipient, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	pub, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	return &Recipient{PrivateKey: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), publicKey: pub}, nil
}

// Encrypt is the layer as the tools that use ocicrypt encrypt it. The DiffID stays.
func (l Layer) Encrypt(to ...*Recipient) (Layer, error) {
	parameters := map[string][][]byte{}
	for _, r := range to {
		if r.Certificate != nil {
			parameters["x509s"] = append(parameters["x509s"], r.Certificate)
		} else {
			parameters["pubkeys"] = append(parameters["pubkeys"], r.publicKey)
		}
	}
	reader, finish, err := ocicrypt.EncryptLayer(&config.EncryptConfig{Parameters: parameters}, bytes.NewReader(l.Blob), l.Descriptor)
	if err != nil {
		return l, fmt.Errorf("encrypt layer: %w", err)
	}
	e := l
	if e.Blob, err = io.ReadAll(reader); err != nil {
		return l, fmt.Errorf("encrypt layer: %w", err)
	}
	if e.Descriptor.Annotations, err = finish(); err != nil {
		return l, fmt.Errorf("encrypt layer: %w", err)
	}
	e.Descriptor.MediaType += "+encrypted"
	e.Descriptor.Digest, e.Descriptor.Size = digest.FromBytes(e.Blob), int64(len(e.Blob))
	return e, nil
}
