package policy

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/testing/ca"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/dsse"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// subject is the image that the tests are about.
var subject = digest.FromString("a manifest")

// payloadFor is what cosign signs in its older form.
func payloadFor(d digest.Digest) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"registry.example/app"},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, d)
}

// statementFor is what cosign signs in its newer form.
func statementFor(d digest.Digest, predicate string) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}],"predicateType":%q,"predicate":{}}`, d.Encoded(), predicate)
}

// key is a signer with a key of its own.
type key struct {
	t       testing.TB
	private imagetest.SigningKey
}

func newKey(t testing.TB) key {
	t.Helper()
	private, err := imagetest.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	return key{t, private}
}

// file writes the public key and returns its path.
func (k key) file() string {
	k.t.Helper()
	content, err := k.private.PublicPEM()
	if err != nil {
		k.t.Fatal(err)
	}
	return write(k.t, "key.pub", content)
}

// simple signs a payload in cosign's older form.
func (k key) simple(d digest.Digest, payload []byte) Signature {
	k.t.Helper()
	signed, err := k.private.SignContent(payload)
	if err != nil {
		k.t.Fatal(err)
	}
	s, err := FromSimpleSigning(d, payload, map[string]string{SignatureAnnotation: base64.StdEncoding.EncodeToString(signed)})
	if err != nil {
		k.t.Fatal(err)
	}
	return s
}

// statement signs a statement in cosign's newer form.
func (k key) statement(d digest.Digest, statement []byte) Signature {
	k.t.Helper()
	signer, err := signature.LoadECDSASigner(k.private.PrivateKey, crypto.SHA256)
	if err != nil {
		k.t.Fatal(err)
	}
	content, err := dsse.WrapSigner(signer, "application/vnd.in-toto+json").SignMessage(bytes.NewReader(statement))
	if err != nil {
		k.t.Fatal(err)
	}
	b := fmt.Appendf(nil, `{"mediaType":%q,"verificationMaterial":{"publicKey":{"hint":"x"}},"dsseEnvelope":%s}`, BundleType, content)
	return Signature{Subject: d, Bundle: b}
}

// sigstore is a certificate authority with a log, as Sigstore's public one.
type sigstore struct {
	t  testing.TB
	ca *ca.VirtualSigstore
}

func newSigstore(t testing.TB) sigstore {
	t.Helper()
	virtual, err := ca.NewVirtualSigstore()
	if err != nil {
		t.Fatal(err)
	}
	return sigstore{t, virtual}
}

// trustedRoot writes the file that says what is to be trusted.
func (s sigstore) trustedRoot() string {
	s.t.Helper()
	logs := map[string]*root.TransparencyLog{}
	for id, log := range s.ca.RekorLogs() {
		raw, err := hex.DecodeString(id)
		if err != nil {
			s.t.Fatal(err)
		}
		log.ID, log.SignatureHashFunc = raw, crypto.SHA256
		logs[id] = log
	}
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		s.ca.FulcioCertificateAuthorities(), nil, s.ca.TimestampingAuthorities(), logs)
	if err != nil {
		s.t.Fatal(err)
	}
	content, err := trusted.MarshalJSON()
	if err != nil {
		s.t.Fatal(err)
	}
	return write(s.t, "trusted_root.json", content)
}

// simple signs a payload in cosign's older form, with a certificate and an entry in
// the log.
func (s sigstore) simple(d digest.Digest, subject, issuer string) Signature {
	s.t.Helper()
	payload := payloadFor(d)
	entity, err := s.ca.Sign(subject, issuer, payload)
	if err != nil {
		s.t.Fatal(err)
	}
	certificate, content, entry := s.parts(entity)
	bundle, err := json.Marshal(map[string]any{
		"SignedEntryTimestamp": entry.GetInclusionPromise().GetSignedEntryTimestamp(),
		"Payload": map[string]any{
			"body": entry.GetCanonicalizedBody(), "integratedTime": entry.GetIntegratedTime(),
			"logIndex": entry.GetLogIndex(), "logID": hex.EncodeToString(entry.GetLogId().GetKeyId()),
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	made, err := FromSimpleSigning(d, payload, map[string]string{
		SignatureAnnotation:   base64.StdEncoding.EncodeToString(content.Signature()),
		certificateAnnotation: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})),
		bundleAnnotation:      string(bundle),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return made
}

// statement signs a statement in cosign's newer form.
func (s sigstore) statement(d digest.Digest, predicate, subject, issuer string) Signature {
	s.t.Helper()
	entity, err := s.ca.Attest(subject, issuer, statementFor(d, predicate))
	if err != nil {
		s.t.Fatal(err)
	}
	certificate, content, entry := s.parts(entity)
	envelope, err := json.Marshal(content.EnvelopeContent().RawEnvelope())
	if err != nil {
		s.t.Fatal(err)
	}
	b := &protobundle.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle+json;version=0.1",
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_X509CertificateChain{X509CertificateChain: &protocommon.X509CertificateChain{
				Certificates: []*protocommon.X509Certificate{{RawBytes: certificate}},
			}},
			TlogEntries: []*protorekor.TransparencyLogEntry{entry},
		},
	}
	material, err := protojson.Marshal(b)
	if err != nil {
		s.t.Fatal(err)
	}
	whole := append(bytes.TrimSuffix(material, []byte("}")), fmt.Appendf(nil, `,"dsseEnvelope":%s}`, envelope)...)
	return Signature{Subject: d, Bundle: whole}
}

// parts are what has been signed, by whom, and the log's entry of it.
func (s sigstore) parts(entity verify.SignedEntity) (certificate []byte, content verify.SignatureContent, entry *protorekor.TransparencyLogEntry) {
	s.t.Helper()
	material, err := entity.VerificationContent()
	if err != nil {
		s.t.Fatal(err)
	}
	if content, err = entity.SignatureContent(); err != nil {
		s.t.Fatal(err)
	}
	entries, err := entity.TlogEntries()
	if err != nil {
		s.t.Fatal(err)
	}
	return material.Certificate().Raw, content, s.complete(entries[0].TransparencyLogEntry())
}

// complete adds to an entry of the log what the library keeps beside it: its kind and
// the log's promise.
func (s sigstore) complete(e *protorekor.TransparencyLogEntry) *protorekor.TransparencyLogEntry {
	s.t.Helper()
	var body struct{ Kind, APIVersion string }
	if err := json.Unmarshal(e.CanonicalizedBody, &body); err != nil {
		s.t.Fatal(err)
	}
	promise, err := s.ca.RekorSignPayload(tlog.RekorPayload{
		Body: base64.StdEncoding.EncodeToString(e.CanonicalizedBody), IntegratedTime: e.IntegratedTime,
		LogIndex: e.LogIndex, LogID: hex.EncodeToString(e.LogId.KeyId),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	e.KindVersion = &protorekor.KindVersion{Kind: body.Kind, Version: body.APIVersion}
	e.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: promise}
	return e
}

func write(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
