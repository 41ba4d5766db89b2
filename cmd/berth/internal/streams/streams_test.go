package streams

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestParseDetachKeys(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "ctrl-p,ctrl-q": "\x10\x11", "a": "a", "ctrl-a,d": "\x01d", "CTRL-@,ctrl-[,ctrl-_": "\x00\x1b\x1f", "ctrl-\\": "\x1c",
	} {
		if got, err := ParseDetachKeys(text); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"ctrl-", "ctrl-1", "ctrl-ab", "ab", ",", "alt-a"} {
		if got, err := ParseDetachKeys(text); err == nil {
			t.Errorf("%q is taken as %q", text, got)
		}
	}
}

func TestDetachReader(t *testing.T) {
	for _, test := range []struct {
		keys, typed, passed string
		detached            bool
	}{
		{"\x10\x11", "hello", "hello", false},
		{"\x10\x11", "hello\x10\x11more", "hello", true},
		{"\x10\x11", "a\x10b\x10\x10\x11", "a\x10b\x10", true},
		{"\x10\x11", "a\x10", "a\x10", false},
		{"aab", "aaab", "a", true},
		{"aba", "abcaba", "abc", true},
		{"q", "xq", "x", true},
		{"", "\x10\x11", "\x10\x11", false},
	} {
		for name, slow := range map[string]func(io.Reader) io.Reader{
			"at once": func(r io.Reader) io.Reader { return r }, "key by key": iotest.OneByteReader, "with the end": iotest.DataErrReader,
		} {
			calls := 0
			r := &DetachReader{In: slow(strings.NewReader(test.typed)), Keys: []byte(test.keys), Detached: func() { calls++ }}
			var passed bytes.Buffer
			_, err := io.Copy(&passed, r)
			if passed.String() != test.passed || (calls == 1) != test.detached || errors.Is(err, ErrDetached) != test.detached {
				t.Errorf("%q of %q %s: passed %q, %d calls, %v", test.keys, test.typed, name, passed.String(), calls, err)
			}
		}
	}
}

func TestNotATerminal(t *testing.T) {
	in := strings.NewReader("")
	if IsTerminal(in) {
		t.Error("a string is a terminal")
	}
	restore, err := MakeRaw(in)
	if err != nil {
		t.Fatal(err)
	}
	restore()
	if q := NewSizeQueue(t.Context(), io.Discard); q != nil {
		t.Errorf("a queue of sizes without a terminal: %v", q)
	}
}
