package output

import (
	"strconv"
	"strings"
	"unicode"
)

// Name is a file's name as a person may see it: quoted if it holds what would move the cursor
// of a terminal, or is no text.
func Name(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}
