package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/berth-cri/berth/imageservice/reference"
)

const head = "apiVersion: berth.dev/v1alpha1\nkind: ImagePolicy\n"

func load(t testing.TB, body string) *Policy {
	t.Helper()
	p, err := Load(write(t, "policy.yaml", []byte(head+body)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func parseRef(t testing.TB, name string) reference.Reference {
	t.Helper()
	ref, err := reference.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestDecide(t *testing.T) {
	p := load(t, `
registries:
  deny: ["bad.example", "*.evil.example"]
rules:
- {images: ["registry.example/prod/**"], namespaces: ["prod-*"], action: Allow}
- {images: ["registry.example/prod/**"], action: Deny}
- {images: ["registry.example/*"], action: Allow}
- {images: ["docker.io/library/*"], action: Allow}
default: Deny
`)
	for _, c := range []struct {
		image, namespace string
		want             Action
		reason           string
	}{
		{"registry.example/prod/a/b", "prod-1", Allow, "rules[0]"},
		{"registry.example/prod/a/b", "test", Deny, "rules[1]"},
		{"registry.example/prod/a/b", "", Deny, "rules[1]"},
		{"registry.example/a:v2", "x", Allow, "rules[2]"},
		{"registry.example/a/b", "x", Deny, "default"},
		{"busybox", "", Allow, "rules[3]"},
		{"registry.example.evil/a", "", Deny, "default"},
		{"bad.example/a", "", Deny, "bad.example"},
		{"x.evil.example/a", "", Deny, "x.evil.example"},
		{"evil.example/a", "", Deny, "default"},
	} {
		d := p.Decide(parseRef(t, c.image), c.namespace)
		if d.Action != c.want || !strings.Contains(d.Reason, c.reason) {
			t.Errorf("%s in %q: %s by %s, want %s by %s", c.image, c.namespace, d.Action, d.Reason, c.want, c.reason)
		}
	}
	only := load(t, "registries: {allow: [registry.example]}")
	if d := only.Decide(parseRef(t, "registry.example/a"), ""); d.Action != Allow {
		t.Errorf("%+v", d)
	}
	if d := only.Decide(parseRef(t, "other.example/a"), ""); d.Action != Deny || d.Check(nil) == nil {
		t.Errorf("%+v", d)
	}
	var none *Policy
	if d := none.Decide(parseRef(t, "x"), ""); d.Action != Allow || d.Check(nil) != nil {
		t.Errorf("without a policy: %+v", d)
	}
}

// signers are one key and one identity that the policy of TestVerify knows, and
// others that it does not.
func TestVerify(t *testing.T) {
	known, other := newKey(t), newKey(t)
	trusted, foreign := newSigstore(t), newSigstore(t)
	const issuer, subjectName = "https://issuer.example", "release@example.com"
	p := load(t, fmt.Sprintf(`
authorities:
- {name: release, key: %s}
- name: ci
  trustedRoot: %s
  identities: [{issuer: %q, subjectRegExp: "^release@example\\.com$"}]
rules:
- {images: ["**"], action: Verify, authorities: [release, ci]}
`, known.file(), trusted.trustedRoot(), issuer))
	d := p.Decide(parseRef(t, "registry.example/app"), "")
	if !d.NeedsSignatures() {
		t.Fatalf("%+v", d)
	}
	another := digest.FromString("another manifest")
	tampered := known.simple(subject, payloadFor(subject))
	tampered.Payload = []byte(strings.Replace(string(tampered.Payload), `"optional":null`, `"optional":{}`, 1))
	for name, c := range map[string]struct {
		signature Signature
		good      bool
	}{
		"key, older form":            {known.simple(subject, payloadFor(subject)), true},
		"key, newer form":            {known.statement(subject, statementFor(subject, signPredicate)), true},
		"identity, older form":       {trusted.simple(subject, subjectName, issuer), true},
		"identity, newer form":       {trusted.statement(subject, signPredicate, subjectName, issuer), true},
		"another key":                {other.simple(subject, payloadFor(subject)), false},
		"another key, newer form":    {other.statement(subject, statementFor(subject, signPredicate)), false},
		"another image's":            {known.simple(subject, payloadFor(another)), false},
		"another image's, new form":  {known.statement(subject, statementFor(another, signPredicate)), false},
		"only where it was built":    {known.statement(subject, statementFor(subject, "https://slsa.dev/provenance/v1")), false},
		"another identity":           {trusted.simple(subject, "intern@example.com", issuer), false},
		"another issuer":             {trusted.statement(subject, signPredicate, subjectName, "https://else.example"), false},
		"another authority":          {foreign.simple(subject, subjectName, issuer), false},
		"another authority, newer":   {foreign.statement(subject, signPredicate, subjectName, issuer), false},
		"a changed payload":          {tampered, false},
		"another kind of payload":    {known.simple(subject, []byte(`{"critical":{"image":{"docker-manifest-digest":"`+subject.String()+`"},"type":"atomic"}}`)), false},
		"a bundle that is no bundle": {Signature{Subject: subject, Bundle: []byte(`{"a":1}`)}, false},
	} {
		err := d.Check([]Signature{c.signature})
		if c.good && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !c.good && !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := d.Check(nil); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "no signature") {
		t.Errorf("unsigned: %v", err)
	}
	// One good signature is enough.
	if err := d.Check([]Signature{other.simple(subject, payloadFor(subject)), known.simple(subject, payloadFor(subject))}); err != nil {
		t.Error(err)
	}
}

// A key with a trusted root asks for an entry in the log.
func TestKeyWithLog(t *testing.T) {
	k, s := newKey(t), newSigstore(t)
	p := load(t, fmt.Sprintf(`
authorities: [{name: a, key: %s, trustedRoot: %s}]
rules: [{images: ["**"], action: Verify, authorities: [a]}]
`, k.file(), s.trustedRoot()))
	err := p.Decide(parseRef(t, "a"), "").Check([]Signature{k.simple(subject, payloadFor(subject))})
	if !errors.Is(err, ErrRefused) {
		t.Errorf("a signature that is in no log: %v", err)
	}
}

func TestMalformedPolicies(t *testing.T) {
	k := newKey(t).file()
	text := write(t, "text", []byte("no key"))
	for body, want := range map[string]string{
		"colour: red":                                                         "colour",
		"default: Maybe":                                                      "default",
		"default: Verify":                                                     "default",
		"rules: [{action: Allow}]":                                            "rules[0].images",
		"rules: [{images: ['a b'], action: Allow}]":                           "rules[0].images[0]",
		"rules: [{images: ['**'], action: Perhaps}]":                          "rules[0].action",
		"rules: [{images: ['**'], action: Verify}]":                           "rules[0].authorities",
		"rules: [{images: ['**'], action: Verify, authorities: [x]}]":         `"x"`,
		"rules: [{images: ['**'], namespaces: [''], action: Deny}]":           "rules[0].namespaces[0]",
		"registries: {deny: ['']}":                                            "registries.deny[0]",
		"authorities: [{name: a}]":                                            "authorities[0]",
		"authorities: [{key: " + k + "}]":                                     "authorities[0].name",
		"authorities: [{name: a, key: " + k + "}, {name: a, key: " + k + "}]": "authorities[1].name",
		"authorities: [{name: a, key: /nonexistent}]":                         "/nonexistent",
		"authorities: [{name: a, key: /dev/zero}]":                            "/dev/zero",
		"authorities: [{name: a, key: " + text + "}]":                         "PEM",
		"authorities: [{name: a, identities: [{issuer: i, subject: s}]}]":     "trustedRoot",
		"authorities: [{name: a, trustedRoot: " + text + ", identities: [{issuer: i, subject: s}]}]":      "trustedRoot",
		"authorities: [{name: a, trustedRoot: x, key: " + k + ", identities: [{issuer: i, subject: s}]}]": "either",
	} {
		path := write(t, "policy.yaml", []byte(head+body))
		_, err := Load(path)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", body, err)
		}
	}
	for _, content := range []string{"", "kind: ImagePolicy", "[]", "\x00", "apiVersion: v1\nkind: Pod"} {
		if _, err := Load(write(t, "policy.yaml", []byte(content))); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", content, err)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// FuzzParse looks for a policy that ends the program.
func FuzzParse(f *testing.F) {
	f.Add([]byte(head + "rules: [{images: ['**'], action: Deny}]"))
	f.Fuzz(func(t *testing.T, content []byte) {
		p, err := parse(content)
		if err == nil {
			p.Decide(reference.Reference{Domain: "a.example", Path: "b"}, "c")
		}
	})
}

// FuzzSignature looks for a signature that ends the program or passes without being
// one.
func FuzzSignature(f *testing.F) {
	k := newKey(f)
	good := k.simple(subject, payloadFor(subject))
	a, err := newAuthority(authorityDocument{Name: "a", Key: k.file()})
	if err != nil {
		f.Fatal(err)
	}
	other := newKey(f).simple(subject, payloadFor(subject))
	f.Add([]byte(other.Bundle), other.Payload)
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}`), []byte(nil))
	f.Fuzz(func(t *testing.T, bundle, payload []byte) {
		if string(payload) == string(good.Payload) {
			return
		}
		if a.verify(Signature{Subject: subject, Bundle: bundle, Payload: payload}) == nil {
			t.Errorf("bundle %q passed", bundle)
		}
	})
}

// A signature in cosign's older form can be written in it again.
func TestSimpleSigningAgain(t *testing.T) {
	d := digest.FromString("image")
	for _, s := range []Signature{
		newKey(t).simple(d, payloadFor(d)), newSigstore(t).simple(d, "release@example.com", "https://issuer.example"),
	} {
		annotations, err := s.SimpleSigning()
		if err != nil {
			t.Fatal(err)
		}
		again, err := FromSimpleSigning(s.Subject, s.Payload, annotations)
		if err != nil {
			t.Fatal(err)
		}
		var want, got any
		if err := errors.Join(json.Unmarshal(s.Bundle, &want), json.Unmarshal(again.Bundle, &got)); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(want, got) {
			t.Errorf("the bundle is\n%s, want\n%s", again.Bundle, s.Bundle)
		}
	}
}
