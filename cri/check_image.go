package cri

import (
	"regexp"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func checkPullImage(r *runtimeapi.PullImageRequest) error {
	return first(
		checkImage("image", r.GetImage()),
		checkAuth("auth", r.GetAuth()),
	)
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
		plain(field(path, "user_specified_image"), s.GetUserSpecifiedImage()),
		matches(field(path, "runtime_handler"), s.GetRuntimeHandler(), handlerPattern, "a name of a runtime handler"),
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
		check       func(path, v string) error
	}{
		{"username", a.GetUsername(), plain},
		{"password", a.GetPassword(), noNUL},
		{"auth", a.GetAuth(), noNUL},
		{"server_address", a.GetServerAddress(), plain},
		{"identity_token", a.GetIdentityToken(), plain},
		{"registry_token", a.GetRegistryToken(), plain},
	} {
		if f.check("", f.value) != nil {
			return invalid(field(path, f.name), "contains a control character")
		}
	}
	return nil
}
