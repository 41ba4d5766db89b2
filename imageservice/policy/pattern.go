package policy

import (
	"fmt"
	"regexp"
	"strings"
)

// pattern is a name in which * stands for anything but a slash, and ** for anything.
type pattern struct{ expression *regexp.Regexp }

func patterns(at string, texts []string) ([]pattern, error) {
	var all []pattern
	for i, text := range texts {
		if text == "" || strings.ContainsAny(text, " \t\n@") {
			return nil, fmt.Errorf("%s[%d]: %q is not a pattern of names", at, i, text)
		}
		quoted := regexp.QuoteMeta(text)
		quoted = strings.ReplaceAll(quoted, `\*\*`, `.*`)
		quoted = strings.ReplaceAll(quoted, `\*`, `[^/]*`)
		all = append(all, pattern{regexp.MustCompile(`^` + quoted + `$`)})
	}
	return all, nil
}

func matchAny(all []pattern, name string) bool {
	for _, p := range all {
		if p.expression.MatchString(name) {
			return true
		}
	}
	return false
}

// Names are patterns of names, for others that choose by them.
type Names []pattern

// ParseNames reads patterns; at names them in errors.
func ParseNames(at string, texts []string) (Names, error) { return patterns(at, texts) }

// Match tells whether one of them fits the name.
func (n Names) Match(name string) bool { return matchAny(n, name) }
