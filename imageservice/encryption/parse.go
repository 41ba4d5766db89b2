package encryption

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/containers/ocicrypt/utils"
	"github.com/go-jose/go-jose/v4"
)

// add takes the content of a file: PEM with any number of keys and certificates, or
// one of them in DER, or a key as JWK.
func (r *ring) add(content, password []byte) error {
	if bytes.Contains(content, []byte("-----BEGIN ")) {
		return r.addPEM(content, password)
	}
	if cert, err := x509.ParseCertificate(content); err == nil {
		r.certificates = append(r.certificates, cert.Raw)
		return nil
	}
	if trimmed := bytes.TrimSpace(content); len(trimmed) > 0 && trimmed[0] == '{' {
		return r.addJWK(trimmed)
	}
	return r.addDER(content)
}

func (r *ring) addPEM(content, password []byte) error {
	found := false
	for {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil {
			break
		}
		found = true
		if err := r.addBlock(block, password); err != nil {
			return err
		}
	}
	if !found {
		return errors.New("is damaged PEM")
	}
	return nil
}

func (r *ring) addBlock(block *pem.Block, password []byte) error {
	switch {
	case block.Type == "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return err
		}
		r.certificates = append(r.certificates, cert.Raw)
		return nil
	case block.Type == "EC PARAMETERS": // openssl writes them in front of a key
		return nil
	case block.Type == "ENCRYPTED PRIVATE KEY":
		der, err := decryptPKCS8(block.Bytes, password)
		if err != nil {
			return err
		}
		return r.addDER(der)
	case block.Headers["DEK-Info"] != "":
		return r.addOldEncrypted(block, password)
	case strings.HasSuffix(block.Type, "PRIVATE KEY"):
		return r.addDER(block.Bytes)
	}
	return fmt.Errorf("holds a %q, which is neither a private key nor a certificate", block.Type)
}

// addOldEncrypted takes a key that is encrypted as OpenSSL did before PKCS #8.
func (r *ring) addOldEncrypted(block *pem.Block, password []byte) error {
	if len(password) == 0 {
		return errNoPassword
	}
	//lint:ignore SA1019 keys in this old form are still about
	der, err := x509.DecryptPEMBlock(block, password)
	if err != nil || r.addDER(der) != nil {
		return errPassword
	}
	return nil
}

var (
	errNoPassword = errors.New("key is encrypted and there is no file with its password, which has the key's name and " + passwordSuffix)
	errPassword   = errors.New("key does not open with its password")
)

func (r *ring) addDER(der []byte) error {
	key, err := utils.ParsePrivateKey(der, nil, "key")
	if err != nil {
		return errors.New("is not a private key in PKCS #8, PKCS #1 or SEC 1 form, nor a certificate or a JWK")
	}
	return r.addKey(key)
}

// addKey keeps a key in the one form that is tried first when it is used.
func (r *ring) addKey(key any) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return errors.New("is a private key of a kind that opens no layers")
	}
	r.private = append(r.private, der)
	return nil
}

func (r *ring) addJWK(content []byte) error {
	var key jose.JSONWebKey
	if key.UnmarshalJSON(content) != nil || key.IsPublic() || !key.Valid() {
		return errors.New("is not a private key in JWK form")
	}
	// With its algorithm it is a key for one use; without, it is just a key.
	return r.addKey(key.Key)
}
