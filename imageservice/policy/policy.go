// Package policy decides which images a node may run: from which registries, and with
// whose signatures. A policy is a file; what it says is looked at when an image is
// pulled and again when a container is made of it, so that a cached or imported image
// gets around nothing.
package policy

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"sigs.k8s.io/yaml"

	"github.com/berth-cri/berth/imageservice/reference"
)

// ErrRefused marks that an image may not be used; the kubelet is told
// SignatureValidationFailed.
var ErrRefused = fmt.Errorf("refused by the image policy: %w", errdefs.ErrPermissionDenied)

// The identity of the format.
const (
	apiVersion = "berth.dev/v1alpha1"
	kind       = "ImagePolicy"
)

// maxFile bounds each file that a policy is made of.
const maxFile = 1 << 20

// Action is what is done with an image.
type Action string

// The actions.
const (
	Allow  Action = "Allow"
	Deny   Action = "Deny"
	Verify Action = "Verify" // allow what one of the rule's authorities has signed
)

// document is the file.
type document struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Registries says from where images may come, whatever the rules say.
	Registries struct {
		// Allow, unless empty, are the only ones.
		Allow []string `json:"allow"`
		Deny  []string `json:"deny"`
	} `json:"registries"`
	Authorities []authorityDocument `json:"authorities"`
	// Rules are looked at in their order; the first that matches decides.
	Rules []ruleDocument `json:"rules"`
	// Default is for what no rule matches: Allow, which it is if it is left out, or
	// Deny.
	Default Action `json:"default"`
}

type ruleDocument struct {
	// Images are patterns of repositories, as in registry.example/team/**.
	Images []string `json:"images"`
	// Namespaces are patterns of the pods' namespaces; none is all of them.
	Namespaces []string `json:"namespaces"`
	Action     Action   `json:"action"`
	// Authorities are names of those of whom one must have signed, for Verify.
	Authorities []string `json:"authorities"`
}

// Policy is a policy that has been read. It does not change; nil allows everything.
type Policy struct {
	allow, deny []pattern
	rules       []rule
	fallback    Action
}

type rule struct {
	images, namespaces []pattern
	action             Action
	authorities        []*authority
}

// Load reads a policy and the keys that it names. Errors are
// errdefs.ErrInvalidArgument and name the file and the field.
func Load(path string) (*Policy, error) {
	content, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("read image policy: %w", err)
	}
	p, err := parse(content)
	if err != nil {
		return nil, fmt.Errorf("image policy %s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	return p, nil
}

func parse(content []byte) (*Policy, error) {
	var doc document
	if err := yaml.UnmarshalStrict(content, &doc); err != nil {
		return nil, err
	}
	if doc.APIVersion != apiVersion || doc.Kind != kind {
		return nil, fmt.Errorf("is a %q of %q, not a %s of %s", doc.Kind, doc.APIVersion, kind, apiVersion)
	}
	p := &Policy{fallback: doc.Default}
	switch doc.Default {
	case "":
		p.fallback = Allow
	case Allow, Deny:
	default:
		return nil, fmt.Errorf("default: %q is neither %s nor %s", doc.Default, Allow, Deny)
	}
	var err error
	if p.allow, err = patterns("registries.allow", doc.Registries.Allow); err != nil {
		return nil, err
	}
	if p.deny, err = patterns("registries.deny", doc.Registries.Deny); err != nil {
		return nil, err
	}
	known := map[string]*authority{}
	for i, a := range doc.Authorities {
		at := fmt.Sprintf("authorities[%d]", i)
		if a.Name == "" || known[a.Name] != nil {
			return nil, fmt.Errorf("%s.name: %q is empty or there twice", at, a.Name)
		}
		if known[a.Name], err = newAuthority(a); err != nil {
			return nil, fmt.Errorf("%s (%s): %w", at, a.Name, err)
		}
	}
	for i, r := range doc.Rules {
		parsed, err := newRule(fmt.Sprintf("rules[%d]", i), r, known)
		if err != nil {
			return nil, err
		}
		p.rules = append(p.rules, parsed)
	}
	return p, nil
}

func newRule(at string, doc ruleDocument, known map[string]*authority) (r rule, err error) {
	if len(doc.Images) == 0 {
		return r, fmt.Errorf("%s.images: is empty; ** stands for every image", at)
	}
	if r.images, err = patterns(at+".images", doc.Images); err != nil {
		return r, err
	}
	if r.namespaces, err = patterns(at+".namespaces", doc.Namespaces); err != nil {
		return r, err
	}
	r.action = doc.Action
	if !slices.Contains([]Action{Allow, Deny, Verify}, doc.Action) {
		return r, fmt.Errorf("%s.action: %q is none of %s, %s, %s", at, doc.Action, Allow, Deny, Verify)
	}
	if (doc.Action == Verify) != (len(doc.Authorities) > 0) {
		return r, fmt.Errorf("%s.authorities: goes with the action %s and with no other", at, Verify)
	}
	for i, name := range doc.Authorities {
		a := known[name]
		if a == nil {
			return r, fmt.Errorf("%s.authorities[%d]: there is no authority %q", at, i, name)
		}
		r.authorities = append(r.authorities, a)
	}
	return r, nil
}

// Decision is what a policy says of an image in a namespace.
type Decision struct {
	Action Action
	// Reason says which part of the policy decided.
	Reason      string
	authorities []*authority
}

// Decide finds the rule for an image by its name. A pod's namespace is empty where an
// image is pulled for no pod; then a rule for namespaces does not match.
func (p *Policy) Decide(ref reference.Reference, namespace string) Decision {
	if p == nil {
		return Decision{Action: Allow, Reason: "there is no image policy"}
	}
	if matchAny(p.deny, ref.Domain) {
		return Decision{Action: Deny, Reason: fmt.Sprintf("registry %q is denied", ref.Domain)}
	}
	if len(p.allow) > 0 && !matchAny(p.allow, ref.Domain) {
		return Decision{Action: Deny, Reason: fmt.Sprintf("registry %q is not among those allowed", ref.Domain)}
	}
	for i, r := range p.rules {
		if !matchAny(r.images, ref.Repository()) || len(r.namespaces) > 0 && !matchAny(r.namespaces, namespace) {
			continue
		}
		return Decision{Action: r.action, Reason: fmt.Sprintf("rules[%d]", i), authorities: r.authorities}
	}
	return Decision{Action: p.fallback, Reason: "default"}
}

// NeedsSignatures tells whether Check looks at signatures.
func (d Decision) NeedsSignatures() bool { return d.Action == Verify }

// Check returns nil if the image may be used, else an ErrRefused that says why not.
// signatures are those found for the image.
func (d Decision) Check(signatures []Signature) error {
	switch d.Action {
	case Allow:
		return nil
	case Deny:
		return fmt.Errorf("%w: %s", ErrRefused, d.Reason)
	}
	if len(signatures) == 0 {
		return fmt.Errorf("%w: it has no signature, and %s asks for one", ErrRefused, d.Reason)
	}
	var failed []error
	for _, a := range d.authorities {
		for _, s := range signatures {
			err := a.verify(s)
			if err == nil {
				return nil
			}
			failed = append(failed, fmt.Errorf("%s: %w", a.name, err))
		}
	}
	return fmt.Errorf("%w: %s: no signature is one of an authority: %w", ErrRefused, d.Reason, errors.Join(failed...))
}

// readFile reads a regular file of bounded size.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is not a regular file of at most %d bytes: %w", path, maxFile, errdefs.ErrInvalidArgument)
	}
	return os.ReadFile(path)
}
