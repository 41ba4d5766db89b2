package policy

import (
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
)

// authorityDocument is somebody whose signature counts: a key, or identities for whom
// Sigstore's certificate authority vouches.
type authorityDocument struct {
	Name string `json:"name"`
	// Key is the path of a public key in PEM.
	Key string `json:"key"`
	// Identities, one of which must be the certificate's.
	Identities []identityDocument `json:"identities"`
	// TrustedRoot is the path of a trusted_root.json: the certificate authorities and
	// logs that are trusted. With a key it asks for an entry in the log too.
	TrustedRoot string `json:"trustedRoot"`
}

// identityDocument describes the certificate of a signer: each of the two by its text
// or by a regular expression.
type identityDocument struct {
	Issuer        string `json:"issuer"`
	IssuerRegExp  string `json:"issuerRegExp"`
	Subject       string `json:"subject"`
	SubjectRegExp string `json:"subjectRegExp"`
}

// authority verifies signatures.
type authority struct {
	name     string
	verifier *verify.Verifier
	// identity is a key or one of several identities.
	identity []verify.PolicyOption
}

func newAuthority(doc authorityDocument) (*authority, error) {
	if (doc.Key == "") == (len(doc.Identities) == 0) {
		return nil, errors.New("must have either a key or identities")
	}
	a := &authority{name: doc.Name}
	var material root.TrustedMaterialCollection
	var err error
	if doc.Key != "" {
		key, err := loadKey(doc.Key)
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		material = append(material, key)
		a.identity = append(a.identity, verify.WithKey())
	}
	options := []verify.VerifierOption{verify.WithNoObserverTimestamps()}
	if doc.TrustedRoot != "" {
		trusted, err := loadTrustedRoot(doc.TrustedRoot)
		if err != nil {
			return nil, fmt.Errorf("trustedRoot: %w", err)
		}
		material = append(material, trusted)
		options = []verify.VerifierOption{verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1)}
		if len(trusted.CTLogs()) > 0 && doc.Key == "" {
			options = append(options, verify.WithSignedCertificateTimestamps(1))
		}
	}
	for i, doc := range doc.Identities {
		identity, err := verify.NewShortCertificateIdentity(doc.Issuer, doc.IssuerRegExp, doc.Subject, doc.SubjectRegExp)
		if err != nil {
			return nil, fmt.Errorf("identities[%d]: %w", i, err)
		}
		a.identity = append(a.identity, verify.WithCertificateIdentity(identity))
	}
	if len(doc.Identities) > 0 && doc.TrustedRoot == "" {
		return nil, errors.New("trustedRoot: must be set with identities")
	}
	if a.verifier, err = verify.NewVerifier(material, options...); err != nil {
		return nil, err
	}
	return a, nil
}

// verify returns nil if the authority has made the signature.
func (a *authority) verify(s Signature) error {
	entity, artifact, err := s.signed()
	if err != nil {
		return err
	}
	result, err := a.verifier.Verify(entity, verify.NewPolicy(artifact, a.identity...))
	if err != nil {
		return err
	}
	return checkStatement(result)
}

func loadKey(path string) (root.TrustedMaterial, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(content); block == nil {
		return nil, fmt.Errorf("%s is not PEM", path)
	}
	public, err := cryptoutils.UnmarshalPEMToPublicKey(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	verifier, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key := root.NewExpiringKey(verifier, time.Time{}, time.Time{})
	// Whatever a bundle calls the key that it was made with, it has to be this one.
	return root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) { return key, nil }), nil
}

func loadTrustedRoot(path string) (root.TrustedMaterial, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, err
	}
	trusted, err := root.NewTrustedRootFromJSON(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return trusted, nil
}
