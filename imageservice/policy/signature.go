package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"
)

// Signature is one signature of an image as it is kept beside the image: enough to
// verify it again without a registry.
type Signature struct {
	// Subject is the digest that was signed: the image's manifest, or the index that
	// led to it.
	Subject digest.Digest `json:"subject"`
	// Bundle is a Sigstore bundle.
	Bundle json.RawMessage `json:"bundle"`
	// Payload, of a signature in cosign's older form, is what the bundle signs; it
	// names the subject. Without one the bundle signs the subject itself.
	Payload []byte `json:"payload,omitempty"`
}

// Annotations and media types of cosign's older form, in which a signature is a layer
// of an image with the tag sha256-….sig.
const (
	SimpleSigningType = "application/vnd.dev.cosign.simplesigning.v1+json"
	// BundleType is the artifact type of a bundle that refers to an image.
	BundleType = "application/vnd.dev.sigstore.bundle.v0.3+json"

	// SignatureAnnotation of such a layer is the signature itself.
	SignatureAnnotation   = "dev.cosignproject.cosign/signature"
	certificateAnnotation = "dev.sigstore.cosign/certificate"
	bundleAnnotation      = "dev.sigstore.cosign/bundle"

	// oldBundle is the version whose log entries prove themselves by the log's promise.
	oldBundle = "application/vnd.dev.sigstore.bundle+json;version=0.1"
)

// FromSimpleSigning makes a Signature of a layer in cosign's older form: its content
// and its annotations.
func FromSimpleSigning(subject digest.Digest, payload []byte, annotations map[string]string) (Signature, error) {
	signature, err := base64.StdEncoding.DecodeString(annotations[SignatureAnnotation])
	if err != nil || len(signature) == 0 {
		return Signature{}, fmt.Errorf("annotation %s is not a signature: %w", SignatureAnnotation, err)
	}
	material := &protobundle.VerificationMaterial{
		Content: &protobundle.VerificationMaterial_PublicKey{PublicKey: &protocommon.PublicKeyIdentifier{}},
	}
	if text := annotations[certificateAnnotation]; text != "" {
		block, _ := pem.Decode([]byte(text))
		if block == nil {
			return Signature{}, fmt.Errorf("annotation %s holds no certificate", certificateAnnotation)
		}
		material.Content = &protobundle.VerificationMaterial_X509CertificateChain{
			X509CertificateChain: &protocommon.X509CertificateChain{
				Certificates: []*protocommon.X509Certificate{{RawBytes: block.Bytes}},
			},
		}
	}
	if text := annotations[bundleAnnotation]; text != "" {
		entry, err := logEntry([]byte(text))
		if err != nil {
			return Signature{}, fmt.Errorf("annotation %s: %w", bundleAnnotation, err)
		}
		material.TlogEntries = []*protorekor.TransparencyLogEntry{entry}
	}
	sum := sha256.Sum256(payload)
	content, err := protojson.Marshal(&protobundle.Bundle{
		MediaType:            oldBundle,
		VerificationMaterial: material,
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &protocommon.MessageSignature{
			MessageDigest: &protocommon.HashOutput{Algorithm: protocommon.HashAlgorithm_SHA2_256, Digest: sum[:]},
			Signature:     signature,
		}},
	})
	if err != nil {
		return Signature{}, fmt.Errorf("encode bundle: %w", err)
	}
	return Signature{Subject: subject, Bundle: content, Payload: payload}, nil
}

// cosignEntry is what cosign keeps of an entry of the transparency log.
type cosignEntry struct {
	SignedEntryTimestamp []byte
	Payload              struct {
		Body           []byte `json:"body"`
		IntegratedTime int64  `json:"integratedTime"`
		LogIndex       int64  `json:"logIndex"`
		LogID          string `json:"logID"`
	}
}

func logEntry(text []byte) (*protorekor.TransparencyLogEntry, error) {
	var old cosignEntry
	if err := json.Unmarshal(text, &old); err != nil {
		return nil, err
	}
	var body struct {
		Kind       string `json:"kind"`
		APIVersion string `json:"apiVersion"`
	}
	if err := json.Unmarshal(old.Payload.Body, &body); err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	id, err := hex.DecodeString(old.Payload.LogID)
	if err != nil {
		return nil, fmt.Errorf("logID: %w", err)
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex:          old.Payload.LogIndex,
		LogId:             &protocommon.LogId{KeyId: id},
		KindVersion:       &protorekor.KindVersion{Kind: body.Kind, Version: body.APIVersion},
		IntegratedTime:    old.Payload.IntegratedTime,
		InclusionPromise:  &protorekor.InclusionPromise{SignedEntryTimestamp: old.SignedEntryTimestamp},
		CanonicalizedBody: old.Payload.Body,
	}, nil
}

// SimpleSigning turns a signature that FromSimpleSigning has made into the annotations of
// its layer again; the layer is the payload.
func (s Signature) SimpleSigning() (map[string]string, error) {
	var b protobundle.Bundle
	if err := protojson.Unmarshal(s.Bundle, &b); err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	annotations := map[string]string{SignatureAnnotation: base64.StdEncoding.EncodeToString(b.GetMessageSignature().GetSignature())}
	if chain := b.GetVerificationMaterial().GetX509CertificateChain().GetCertificates(); len(chain) > 0 {
		annotations[certificateAnnotation] = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain[0].GetRawBytes()}))
	}
	if entries := b.GetVerificationMaterial().GetTlogEntries(); len(entries) > 0 {
		e, old := entries[0], cosignEntry{SignedEntryTimestamp: entries[0].GetInclusionPromise().GetSignedEntryTimestamp()}
		old.Payload.Body, old.Payload.IntegratedTime = e.GetCanonicalizedBody(), e.GetIntegratedTime()
		old.Payload.LogIndex, old.Payload.LogID = e.GetLogIndex(), hex.EncodeToString(e.GetLogId().GetKeyId())
		text, err := json.Marshal(old)
		if err != nil {
			return nil, err
		}
		annotations[bundleAnnotation] = string(text)
	}
	return annotations, nil
}

// signed is what a verifier has to compare the bundle with.
func (s Signature) signed() (*bundle.Bundle, verify.ArtifactPolicyOption, error) {
	var b bundle.Bundle
	if err := b.UnmarshalJSON(s.Bundle); err != nil {
		return nil, nil, fmt.Errorf("read bundle: %w", err)
	}
	if s.Payload != nil {
		if err := s.checkPayload(); err != nil {
			return nil, nil, err
		}
		return &b, verify.WithArtifact(bytes.NewReader(s.Payload)), nil
	}
	sum, err := hex.DecodeString(s.Subject.Encoded())
	if err != nil {
		return nil, nil, fmt.Errorf("digest %s: %w", s.Subject, err)
	}
	return &b, verify.WithArtifactDigest(s.Subject.Algorithm().String(), sum), nil
}

// checkPayload sees to it that what was signed speaks of this image.
func (s Signature) checkPayload() error {
	var payload struct {
		Critical struct {
			Type  string `json:"type"`
			Image struct {
				Digest digest.Digest `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(s.Payload, &payload); err != nil {
		return fmt.Errorf("read payload: %w", err)
	}
	if payload.Critical.Type != "cosign container image signature" {
		return fmt.Errorf("payload is a %q", payload.Critical.Type)
	}
	if got := payload.Critical.Image.Digest; got != s.Subject {
		return fmt.Errorf("signature is that of %s", got)
	}
	return nil
}

// signPredicate is what cosign calls a statement that an image is signed; other
// statements about an image, such as where it was built, allow nothing.
const signPredicate = "https://sigstore.dev/cosign/sign/v1"

func checkStatement(result *verify.VerificationResult) error {
	if result.Statement != nil && result.Statement.PredicateType != signPredicate {
		return fmt.Errorf("it is a statement of the type %q", result.Statement.PredicateType)
	}
	if result.Signature == nil {
		return errors.New("nothing was verified")
	}
	return nil
}
