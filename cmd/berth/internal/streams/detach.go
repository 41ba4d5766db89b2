package streams

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrDetached ends an input when the person typed the detach keys.
var ErrDetached = errors.New("detached")

// DefaultDetachKeys are Docker's.
const DefaultDetachKeys = "ctrl-p,ctrl-q"

// ParseDetachKeys reads a list like "ctrl-p,ctrl-q" or "q". An empty one is no
// keys.
func ParseDetachKeys(s string) ([]byte, error) {
	if s == "" {
		return nil, nil
	}
	var keys []byte
	for name := range strings.SplitSeq(s, ",") {
		key, err := parseKey(name)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func parseKey(name string) (byte, error) {
	if len(name) == 1 {
		return name[0], nil
	}
	letter, ok := strings.CutPrefix(strings.ToLower(name), "ctrl-")
	if ok && len(letter) == 1 {
		switch c := letter[0]; {
		case c >= 'a' && c <= 'z':
			return c - 'a' + 1, nil
		case strings.IndexByte("@[\\]^_", c) >= 0:
			return c - '@', nil
		}
	}
	return 0, fmt.Errorf("detach key %q is neither one character nor ctrl- and one of a-z @ [ \\ ] ^ _", name)
}

// DetachReader passes on what is typed until the keys come in a row; then
// Detached is called and Read returns ErrDetached. Keys that turn out to be no
// whole sequence are passed on.
type DetachReader struct {
	In       io.Reader
	Keys     []byte
	Detached func()

	matched int    // keys seen and held back
	pending []byte // to be passed on before reading more
	err     error
}

func (d *DetachReader) Read(p []byte) (int, error) {
	if len(d.Keys) == 0 {
		return d.In.Read(p)
	}
	for {
		if len(d.pending) > 0 {
			n := copy(p, d.pending)
			d.pending = d.pending[n:]
			return n, nil
		}
		if d.err != nil {
			return 0, d.err
		}
		buf := make([]byte, len(p))
		n, err := d.In.Read(buf)
		d.scan(buf[:n])
		if d.err == nil && err != nil {
			d.pending = append(d.pending, d.Keys[:d.matched]...)
			d.matched, d.err = 0, err
		}
		if n == 0 && err == nil {
			return 0, nil
		}
	}
}

func (d *DetachReader) scan(typed []byte) {
	for _, c := range typed {
		held := append(bytes.Clone(d.Keys[:d.matched]), c)
		d.matched = suffixMatch(held, d.Keys)
		d.pending = append(d.pending, held[:len(held)-d.matched]...)
		if d.matched == len(d.Keys) {
			d.err = ErrDetached
			d.Detached()
			return
		}
	}
}

// suffixMatch returns the length of the longest end of held that begins keys.
func suffixMatch(held, keys []byte) int {
	for n := min(len(held), len(keys)); n > 0; n-- {
		if bytes.HasSuffix(held, keys[:n]) {
			return n
		}
	}
	return 0
}
