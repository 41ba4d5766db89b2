package cri

import (
	"bytes"
	"encoding/base64"
	"regexp"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func checkPullImage(r *runtimeapi.PullImageRequest) error {
	return first(
		checkImage("image", r.GetImage()),
		checkAuth("auth", r.GetAuth()),
		checkPuller("sandbox_config.metadata", r.GetSandboxConfig().GetMetadata()),
	)
}

// checkPuller checks the names of the pod that an image is for, as far as they are
// given: what the policy for images says may depend on the namespace.
func checkPuller(path string, m *runtimeapi.PodSandboxMetadata) error {
	for _, f := range []struct{ name, value string }{
		{"name", m.GetName()}, {"uid", m.GetUid()}, {"namespace", m.GetNamespace()},
	} {
		if f.value == "" {
			continue
		}
		if err := requiredName(field(path, f.name), f.value); err != nil {
			return err
		}
	}
	return nil
}

// checkImage checks an image that has to be named.
func checkImage(path string, s *runtimeapi.ImageSpec) error {
	if s.GetImage() == "" {
		return invalid(field(path, "image"), "must not be empty")
	}
	return checkImageFilter(path, s)
}

// checkImageFilter checks the name of an image if there is one: a filter
// without one selects all.
func checkImageFilter(path string, s *runtimeapi.ImageSpec) error {
	return first(
		checkImageName(field(path, "image"), s.GetImage()),
		labels(field(path, "annotations"), s.GetAnnotations()),
		text(field(path, "user_specified_image"), s.GetUserSpecifiedImage()),
		checkHandler(field(path, "runtime_handler"), s.GetRuntimeHandler()),
		checkImageName(field(path, "image_ref"), s.GetImageRef()),
	)
}

// checkImageName checks the form of a name, a digest, an ID or the beginning of
// one; the image service parses it.
func checkImageName(path, v string) error {
	if v == "" {
		return nil
	}
	if len(v) > maxImageName {
		return invalid(path, "must not have more than %d characters", maxImageName)
	}
	name, digest, hasDigest := strings.Cut(v, "@")
	if !imagePattern.MatchString(name) || strings.Contains(name, "..") || strings.Contains(name, "//") {
		return invalid(path, "%q is not the name of an image", shorten(v))
	}
	if hasDigest {
		return checkDigest(path, digest)
	}
	return nil
}

// digestPatterns are the algorithms of image digests.
var digestPatterns = map[string]*regexp.Regexp{"sha256": sha256Pattern, "sha512": sha512Pattern}

func checkDigest(path, v string) error {
	algorithm, hex, _ := strings.Cut(v, ":")
	pattern, known := digestPatterns[algorithm]
	if !known {
		return invalid(path, "%q is not a digest: the algorithm must be sha256 or sha512", shorten(v))
	}
	if !pattern.MatchString(hex) {
		return invalid(path, "%q is not a %s digest", shorten(v), algorithm)
	}
	return nil
}

// checkAuth refuses credentials that could change the request they are sent
// with. A password may have lines: that of a service account is a JSON document.
// Credentials are never repeated in an error.
func checkAuth(path string, a *runtimeapi.AuthConfig) error {
	for _, f := range []struct {
		name, value string
		lines       bool
	}{
		{"username", a.GetUsername(), false},
		{"password", a.GetPassword(), true},
		{"auth", a.GetAuth(), true},
		{"server_address", a.GetServerAddress(), false},
		{"identity_token", a.GetIdentityToken(), false},
		{"registry_token", a.GetRegistryToken(), false},
	} {
		switch {
		case len(f.value) > maxSecret:
			return invalid(field(path, f.name), "must not have more than %d bytes", maxSecret)
		case strings.ContainsRune(f.value, 0) || !f.lines && plain("", f.value) != nil:
			return invalid(field(path, f.name), "contains a control character")
		}
	}
	if a.GetAuth() == "" || a.GetUsername() != "" || a.GetPassword() != "" {
		return nil
	}
	pair, err := base64.StdEncoding.DecodeString(a.GetAuth())
	switch {
	case err != nil:
		return invalid(field(path, "auth"), "is not base64")
	case !bytes.ContainsRune(pair, ':'):
		return invalid(field(path, "auth"), "has no colon between user and password")
	}
	return nil
}
