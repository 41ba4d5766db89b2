package inflate

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// pieces is a Source of a byte slice in pieces of one size.
type pieces struct {
	rest []byte
	size int
	err  error // at the end, in the place of io.EOF
}

func (p *pieces) Next() ([]byte, error) {
	if len(p.rest) == 0 {
		if p.err != nil {
			return nil, p.err
		}
		return nil, io.EOF
	}
	n := min(p.size, len(p.rest))
	piece := p.rest[:n]
	p.rest = p.rest[n:]
	return piece, nil
}

// text compresses a little, as programs do, and is longer than the window.
func text(n int) []byte {
	random := rand.New(rand.NewPCG(3, 4))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "%d %x\n", random.IntN(1000), random.Uint32())
	}
	return b.Bytes()[:n]
}

func compress(t testing.TB, content []byte, level int, header func(*gzip.Header)) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		header(&w.Header)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func inflate(mode Mode, src Source) ([]byte, error) {
	r, err := Gzip(src, mode)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// The machine that builds and tests has the library: hack/setup.sh installs it.
func TestLibraryIsThere(t *testing.T) {
	if !Native() {
		t.Fatal("libisal.so.2 was not found (Debian package libisal-dev)")
	}
}

func TestBothDecodersReadTheSame(t *testing.T) {
	long := text(3 << 20)
	withText := func(h *gzip.Header) { h.Name, h.Comment, h.Extra = "a name", "a comment", []byte("more") }
	streams := map[string][]byte{
		"empty":            compress(t, nil, 6, nil),
		"long":             compress(t, long, 6, nil),
		"best":             compress(t, long, 9, nil),
		"stored":           compress(t, long, 0, nil),
		"fixed":            compress(t, []byte("a"), 6, nil),
		"header with text": compress(t, long[:1000], 6, withText),
		"two members":      append(compress(t, long[:100], 6, nil), compress(t, long[100:], 6, withText)...),
		"empty members":    append(append(compress(t, nil, 6, nil), compress(t, nil, 6, nil)...), compress(t, long, 1, nil)...),
	}
	for name, stream := range streams {
		for _, size := range []int{1, 7, 4096, 256 << 10, len(stream)} {
			want, err := inflate(Go, &pieces{rest: stream, size: size})
			if err != nil {
				t.Fatalf("%s in pieces of %d: %v", name, size, err)
			}
			got, err := inflate(Auto, &pieces{rest: stream, size: size})
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s in pieces of %d: %d bytes instead of %d, %v", name, size, len(got), len(want), err)
			}
		}
	}
}

func TestBothDecodersRefuseTheSame(t *testing.T) {
	good := compress(t, text(200_000), 6, nil)
	changed := func(at int, b byte) []byte {
		c := bytes.Clone(good)
		c[(at+len(c))%len(c)] ^= b
		return c
	}
	withCRC := []byte{0x1f, 0x8b, 8, flagHeaderCRC, 0, 0, 0, 0, 0, 255}
	sum := crc32.ChecksumIEEE(withCRC)
	streams := map[string][]byte{
		"nothing":         {},
		"half a header":   good[:5],
		"no body":         good[:10],
		"cut":             good[:len(good)/2],
		"no trailer":      good[:len(good)-8],
		"half a trailer":  good[:len(good)-3],
		"wrong magic":     changed(0, 1),
		"wrong method":    changed(2, 1),
		"wrong body":      changed(5000, 0xff),
		"wrong checksum":  changed(-7, 1),
		"wrong size":      changed(-2, 1),
		"garbage behind":  append(bytes.Clone(good), "garbage"...),
		"zeros behind":    append(bytes.Clone(good), make([]byte, 512)...),
		"header checksum": append(withCRC, append([]byte{byte(sum), byte(sum>>8) ^ 1}, good[10:]...)...),
	}
	for name, stream := range streams {
		for _, mode := range []Mode{Auto, Go} {
			if _, err := inflate(mode, &pieces{rest: stream, size: 1000}); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s, mode %d: %v", name, mode, err)
			}
		}
	}
}

func TestErrorsOfTheSourceStayWhatTheyAre(t *testing.T) {
	good := compress(t, text(200_000), 6, nil)
	broken := errors.New("broken")
	for _, n := range []int{0, 5, 10, len(good) / 2, len(good) - 3} {
		for _, mode := range []Mode{Auto, Go} {
			_, err := inflate(mode, &pieces{rest: good[:n], size: 1000, err: broken})
			if !errors.Is(err, broken) || errors.Is(err, ErrCorrupt) {
				t.Errorf("after %d bytes, mode %d: %v", n, mode, err)
			}
		}
	}
}

// Whatever the bytes are, the library and the Go code must agree.
func FuzzDecodersAgree(f *testing.F) {
	f.Add(compress(f, text(2000), 6, nil), 100)
	f.Add(compress(f, text(100), 0, nil), 1)
	f.Add(append(compress(f, []byte("a"), 9, nil), compress(f, []byte("b"), 1, nil)...), 3)
	f.Fuzz(func(t *testing.T, stream []byte, size int) {
		size = max(1, size)
		want, wantErr := inflate(Go, &pieces{rest: stream, size: size})
		got, gotErr := inflate(Auto, &pieces{rest: stream, size: size})
		if (wantErr == nil) != (gotErr == nil) {
			t.Fatalf("Go: %v, library: %v", wantErr, gotErr)
		}
		if wantErr == nil && !bytes.Equal(got, want) {
			t.Fatalf("%d bytes instead of %d", len(got), len(want))
		}
	})
}

func benchmark(b *testing.B, mode Mode) {
	content := text(32 << 20)
	stream := compress(b, content, 6, nil)
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		r, err := Gzip(&pieces{rest: stream, size: 256 << 10}, mode)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			_, err = r.Read(buf)
		}
		r.Close()
		if err != io.EOF {
			b.Fatal(err)
		}
	}
}

func BenchmarkLibrary(b *testing.B) { benchmark(b, Auto) }
func BenchmarkGo(b *testing.B)      { benchmark(b, Go) }
