package cri

import (
	"math"
	"net/netip"
	"path"
	"regexp"
	"strings"
	"unicode"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// Checks of single values. An empty string passes where its name does not say
// that the value is required; each returns an error for the field at path.

const (
	// maxID bounds IDs; Berth's own have 64 digits.
	maxID = 128
	// maxName bounds names of pods, containers, handlers.
	maxName = 253
	// maxHostname is the kernel's own limit, __NEW_UTS_LEN.
	maxHostname = 64
	// maxPath is PATH_MAX less the terminating byte.
	maxPath = 4095
	// maxUserID is what Kubernetes allows; beyond it tools differ in what they
	// make of a number.
	maxUserID = math.MaxInt32
	// maxImageName bounds an image's name, digest included.
	maxImageName = 1024
	// maxText bounds what becomes a line, an option or a key; a page is also what
	// the kernel takes of a setting.
	maxText = 4096
	// maxArgument is MAX_ARG_STRLEN less the terminating byte: the kernel runs
	// nothing with a longer argument or variable.
	maxArgument = 128<<10 - 1
	// maxSecret bounds credentials; the largest known are tokens of some KiB.
	maxSecret = 64 << 10
	// maxPorts is as many as there are.
	maxPorts = 65535
)

var (
	// idPattern is wider than Berth's own IDs, which are hexadecimal: a kubelet
	// may ask for what another runtime left behind, and the answer to that is
	// NotFound. No ID can be a path.
	idPattern       = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
	hostnamePattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
	handlerPattern  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
	cpusetPattern   = regexp.MustCompile(`^\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*$`)
	pageSizePattern = regexp.MustCompile(`^\d{1,6}[KMG]B$`)
	unifiedPattern  = regexp.MustCompile(`^[a-z0-9_]+(\.[A-Za-z0-9_]+)+$`)
	sysctlPattern   = regexp.MustCompile(`^[A-Za-z0-9_-]+([./][A-Za-z0-9_@*:-]+)+$`)
	sha256Pattern   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	sha512Pattern   = regexp.MustCompile(`^[0-9a-f]{128}$`)
	imagePattern    = regexp.MustCompile(`^[A-Za-z0-9\[][A-Za-z0-9._:/\[\]+-]*$`)
)

// requiredID checks an ID or a prefix of one.
func requiredID(path, v string) error {
	if v == "" {
		return invalid(path, "must not be empty")
	}
	return optionalID(path, v)
}

func optionalID(path, v string) error {
	switch {
	case v == "":
		return nil
	case len(v) > maxID:
		return invalid(path, "must not have more than %d characters", maxID)
	case !idPattern.MatchString(v):
		return invalid(path, "%q is not an ID: letters, digits, '_', '.' and '-' only", shorten(v))
	}
	return nil
}

// requiredName checks a name that may become part of a path or of a record.
func requiredName(path, v string) error {
	switch {
	case v == "":
		return invalid(path, "must not be empty")
	case len(v) > maxName:
		return invalid(path, "must not have more than %d bytes", maxName)
	case v == "." || v == ".." || strings.ContainsRune(v, '/'):
		return invalid(path, "%q must not be a path", shorten(v))
	}
	return plain(path, v)
}

// plain refuses control characters.
func plain(path, v string) error {
	for _, r := range v {
		if r < ' ' || r == 0x7f {
			return invalid(path, "%q contains the control character %U", shorten(v), r)
		}
	}
	return nil
}

// text is plain and has no more than a page.
func text(path, v string) error {
	if len(v) > maxText {
		return invalid(path, "must not have more than %d bytes", maxText)
	}
	return plain(path, v)
}

// word refuses white space too: the value goes into a file where it separates.
func word(path, v string) error {
	if strings.ContainsFunc(v, unicode.IsSpace) {
		return invalid(path, "%q contains white space", shorten(v))
	}
	return text(path, v)
}

// requiredWord is a word that is not empty.
func requiredWord(path, v string) error {
	if v == "" {
		return invalid(path, "must not be empty")
	}
	return word(path, v)
}

// argument refuses what the kernel passes to no program: a NUL byte, which ends an
// argument, and more bytes than an argument may have.
func argument(path, v string) error {
	switch {
	case strings.ContainsRune(v, 0):
		return invalid(path, "%q contains a NUL byte", shorten(v))
	case len(v) > maxArgument:
		return invalid(path, "must not have more than %d bytes", maxArgument)
	}
	return nil
}

// absolutePath checks a path that is set and absolute.
func absolutePath(p, v string) error {
	switch {
	case v == "":
		return invalid(p, "must not be empty")
	case !strings.HasPrefix(v, "/"):
		return invalid(p, "%q must be an absolute path", shorten(v))
	case len(v) > maxPath:
		return invalid(p, "must not have more than %d bytes", maxPath)
	}
	return plain(p, v)
}

// descendingPath refuses a path with a ".." in it.
func descendingPath(p, v string) error {
	for _, element := range strings.Split(v, "/") {
		if element == ".." {
			return invalid(p, "%q must not contain \"..\"", shorten(v))
		}
	}
	if len(v) > maxPath {
		return invalid(p, "must not have more than %d bytes", maxPath)
	}
	return plain(p, v)
}

// relativePath checks a path that stays below where it starts.
func relativePath(p, v string) error {
	if v == "" {
		return nil
	}
	if strings.HasPrefix(v, "/") {
		return invalid(p, "%q must be a relative path", shorten(v))
	}
	if path.Clean(v) == "." {
		return invalid(p, "%q names no file", shorten(v))
	}
	return descendingPath(p, v)
}

// between checks a number.
func between(path string, v, low, high int64) error {
	if v < low || v > high {
		return invalid(path, "%d is not between %d and %d", v, low, high)
	}
	return nil
}

// atLeast checks a number that has no upper limit.
func atLeast(path string, v, low int64) error {
	if v < low {
		return invalid(path, "%d is less than %d", v, low)
	}
	return nil
}

// userID checks a user or group ID.
func userID(path string, v int64) error { return between(path, v, 0, maxUserID) }

// matches checks a value against a pattern; wanted describes it.
func matches(path, v string, pattern *regexp.Regexp, wanted string) error {
	if len(v) > maxText {
		return invalid(path, "must not have more than %d bytes", maxText)
	}
	if v != "" && !pattern.MatchString(v) {
		return invalid(path, "%q is not %s", shorten(v), wanted)
	}
	return nil
}

// address checks an IP address.
func address(path, v string) error {
	if _, err := netip.ParseAddr(v); err != nil {
		return invalid(path, "%q is not an IP address", shorten(v))
	}
	return nil
}

// enum checks that a value is one the API knows.
func enum(path string, v protoreflect.Enum) error {
	if v.Descriptor().Values().ByNumber(v.Number()) == nil {
		return invalid(path, "%d is not a %s", v.Number(), v.Descriptor().Name())
	}
	return nil
}

// labels checks the keys of labels or annotations. Their values are the
// client's own and are not looked at.
func labels(path string, m map[string]string) error {
	for k := range m {
		switch {
		case k == "":
			return invalid(path, "a key must not be empty")
		case len(k) > maxText:
			return invalid(path, "a key must not have more than %d bytes", maxText)
		}
		if err := plain(entry(path, k), k); err != nil {
			return err
		}
	}
	return nil
}
