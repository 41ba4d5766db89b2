package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-cri/berth/imageservice/hosts"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/opencontainers/go-digest"
)

// blobHost serves one blob: in parts at once, from anywhere to its end at a pace that
// makes who reads it wait.
type blobHost struct {
	*httptest.Server
	blob   []byte
	part   func(w http.ResponseWriter, req *http.Request, from, to int64) bool // true: answered
	served atomic.Int64

	mu      sync.Mutex
	asked   []Extent
	current int
	most    int // requests for parts at a time
}

func newBlobHost(t *testing.T, blob []byte) *blobHost {
	h := &blobHost{blob: blob}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *blobHost) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	size := int64(len(h.blob))
	from, to := int64(0), size
	if r := req.Header.Get("Range"); r != "" {
		fmt.Sscanf(r, "bytes=%d-%d", &from, &to)
		to++
	}
	h.mu.Lock()
	h.asked = append(h.asked, Extent{from, to})
	isPart := to < size || from > 0 && from%partSize == 0
	if isPart {
		h.current++
		h.most = max(h.most, h.current)
		defer func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.current--
		}()
	}
	h.mu.Unlock()
	if isPart && h.part != nil && h.part(w, req, from, to) {
		return
	}
	h.send(w, from, to, !isPart)
}

func (h *blobHost) send(w http.ResponseWriter, from, to int64, slowly bool) {
	w.Header().Set("Content-Length", strconv.FormatInt(to-from, 10))
	if from > 0 || to < int64(len(h.blob)) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(h.blob)))
		w.WriteHeader(http.StatusPartialContent)
	}
	for from < to {
		n, err := w.Write(h.blob[from:min(to, from+64<<10)])
		h.served.Add(int64(n))
		if from += int64(n); err != nil {
			return
		}
		if slowly {
			w.(http.Flusher).Flush()
			time.Sleep(2 * time.Millisecond)
		}
	}
}

func (h *blobHost) parts() []Extent {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.asked)
}

func randomBlob(size int) []byte {
	b := make([]byte, size)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(b)
	return b
}

func openBlob(t *testing.T, o Options, list ...*blobHost) *Repository {
	t.Helper()
	for i, h := range list {
		o.Hosts = append(o.Hosts, hosts.Host{
			Scheme: "http", Addr: strings.TrimPrefix(h.URL, "http://"), Path: "/v2", Pull: true, Resolve: true, Registry: i == len(list)-1,
		})
	}
	ref, err := reference.Parse("registry.example/app:1")
	if err != nil {
		t.Fatal(err)
	}
	o.Backoff = time.Millisecond
	r, err := Open(ref, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	r.splitAfter, r.splitFloor = 0, 1
	return r
}

// fetched reads the blob to its end and checks it.
func fetched(t *testing.T, r *Repository, spec BlobSpec, blob []byte) *Stream {
	t.Helper()
	spec.Digest, spec.Size = digest.FromBytes(blob), int64(len(blob))
	s, err := r.Stream(context.Background(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Leave)
	got, err := io.ReadAll(s)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, blob[spec.Offset:]) {
		t.Fatalf("%d bytes, of %d, and not the same", len(got), len(blob))
	}
	return s
}

func newSpool(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

const testBlob = 5*partSize + 12345

func TestSlowBlobIsFetchedInParts(t *testing.T) {
	blob := randomBlob(testBlob)
	h := newBlobHost(t, blob)
	h.part = func(http.ResponseWriter, *http.Request, int64, int64) bool {
		time.Sleep(20 * time.Millisecond)
		return false
	}
	split := 0
	var arrived atomic.Int64
	r := openBlob(t, Options{Split: func() { split++ }}, h)
	fetched(t, r, BlobSpec{Spool: newSpool(t), Progress: func(n int64) { arrived.Add(n) }}, blob)
	if split != 1 || h.most < 2 || h.most > defaultConnections {
		t.Errorf("split %d times, up to %d requests for parts at a time", split, h.most)
	}
	if arrived.Load() != testBlob {
		t.Errorf("%d bytes of %d arrived", arrived.Load(), testBlob)
	}
}

func TestOneConnectionWhereNoMoreAreWanted(t *testing.T) {
	blob := randomBlob(3 << 20)
	for what, c := range map[string]struct {
		o     Options
		spool Spool
	}{"no spool": {Options{}, nil}, "configured": {Options{Connections: 1}, newSpool(t)}} {
		h := newBlobHost(t, blob)
		fetched(t, openBlob(t, c.o, h), BlobSpec{Spool: c.spool}, blob)
		if got := h.parts(); len(got) != 1 {
			t.Errorf("%s: asked %v", what, got)
		}
	}
	// A machine that is slower than the connection.
	h := newBlobHost(t, blob)
	r := openBlob(t, Options{}, h)
	r.splitAfter = splitAfter
	fetched(t, r, BlobSpec{Spool: newSpool(t)}, blob)
	if got := h.parts(); len(got) != 1 {
		t.Errorf("fast: asked %v", got)
	}
}

// What one host does to the third part.
var badParts = map[string]func(h *blobHost, w http.ResponseWriter, from, to int64){
	"fails": func(_ *blobHost, w http.ResponseWriter, _, _ int64) { w.WriteHeader(http.StatusInternalServerError) },
	"wrong range": func(h *blobHost, w http.ResponseWriter, from, to int64) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from+1, to, len(h.blob)))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(h.blob[from+1 : to])
	},
	"other size": func(h *blobHost, w http.ResponseWriter, from, to int64) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(h.blob)+1))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(h.blob[from:to])
	},
	"stalls": func(h *blobHost, w http.ResponseWriter, from, to int64) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(h.blob)))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(h.blob[from : from+10])
		w.(http.Flusher).Flush()
		time.Sleep(4 * time.Second)
	},
	"refuses": func(_ *blobHost, w http.ResponseWriter, _, _ int64) { w.WriteHeader(http.StatusForbidden) },
	"whole":   func(h *blobHost, w http.ResponseWriter, _, _ int64) { _, _ = w.Write(h.blob) },
}

func TestBadPartComesFromTheNextHost(t *testing.T) {
	blob := randomBlob(testBlob)
	for what, bad := range badParts {
		mirror, registry := newBlobHost(t, blob), newBlobHost(t, blob)
		mirror.part = func(w http.ResponseWriter, _ *http.Request, from, to int64) bool {
			if from/partSize != 2 {
				return false
			}
			bad(mirror, w, from, to)
			return true
		}
		r := openBlob(t, Options{StallTimeout: 2 * time.Second}, mirror, registry)
		s := fetched(t, r, BlobSpec{Spool: newSpool(t)}, blob)
		for _, e := range registry.parts() {
			if e.From/partSize != 2 || e.To != 3*partSize {
				t.Errorf("%s: the next host was asked for %v", what, e)
			}
		}
		if len(registry.parts()) == 0 || len(s.Used()) != 2 {
			t.Errorf("%s: asked %v, used %v", what, registry.parts(), s.Used())
		}
	}
}

// A part that breaks is taken up where it broke, at the same host.
func TestBrokenPartGoesOn(t *testing.T) {
	blob := randomBlob(testBlob)
	h := newBlobHost(t, blob)
	var broke atomic.Bool
	h.part = func(w http.ResponseWriter, _ *http.Request, from, to int64) bool {
		if from != 3*partSize || broke.Swap(true) {
			return false
		}
		w.Header().Set("Content-Length", strconv.FormatInt(to-from, 10))
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(blob)))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(blob[from : from+1<<20])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	fetched(t, openBlob(t, Options{}, h), BlobSpec{Spool: newSpool(t)}, blob)
	if !slices.ContainsFunc(h.parts(), func(e Extent) bool { return e.From > 3*partSize && e.To == 4*partSize }) {
		t.Errorf("asked %v", h.parts())
	}
}

// Where parts do not work, one connection does, and what the parts have brought is
// not fetched again.
func TestOneConnectionIsTheWayOut(t *testing.T) {
	blob := randomBlob(testBlob)
	for _, bad := range badParts {
		h := newBlobHost(t, blob)
		h.part = func(w http.ResponseWriter, _ *http.Request, from, to int64) bool {
			if from/partSize != 2 || to == int64(len(blob)) {
				return false
			}
			time.Sleep(20 * time.Millisecond) // others are further by then
			bad(h, w, from, to)
			return true
		}
		fetched(t, openBlob(t, Options{StallTimeout: time.Second}, h), BlobSpec{Spool: newSpool(t)}, blob)
	}
}

func TestHostWithoutRanges(t *testing.T) {
	blob := randomBlob(testBlob)
	h := newBlobHost(t, blob)
	h.part = func(w http.ResponseWriter, _ *http.Request, _, _ int64) bool {
		h.send(w, 0, int64(len(blob)), false)
		return true
	}
	fetched(t, openBlob(t, Options{}, h), BlobSpec{Spool: newSpool(t)}, blob)
}

// What an earlier transfer has put into the spool is not fetched again.
func TestPartsOfAnEarlierTransfer(t *testing.T) {
	blob := randomBlob(testBlob)
	for _, connections := range []int{1, 4} {
		spool := newSpool(t)
		have := []Extent{{2 * partSize, 3 * partSize}, {3*partSize + 4096, 3*partSize + 9000}, {4 * partSize, testBlob}}
		for _, e := range have {
			if _, err := spool.WriteAt(blob[e.From:e.To], e.From); err != nil {
				t.Fatal(err)
			}
		}
		h := newBlobHost(t, blob)
		h.part = func(w http.ResponseWriter, _ *http.Request, from, to int64) bool {
			h.send(w, from, to, true)
			return true
		}
		fetched(t, openBlob(t, Options{Connections: connections}, h), BlobSpec{Spool: spool, Have: have, Offset: 1000}, blob)
		for _, e := range h.parts() {
			for _, there := range have {
				if e.From >= there.From && e.From < there.To {
					t.Errorf("%d connections: asked for %v, which was there", connections, e)
				}
			}
		}
	}
}

type brokenSpool struct{ *os.File }

func (brokenSpool) WriteAt([]byte, int64) (int, error) { return 0, errors.New("no room") }

type lostSpool struct{ *os.File }

func (lostSpool) ReadAt([]byte, int64) (int, error) { return 0, errors.New("input/output error") }

func TestSpoolThatFails(t *testing.T) {
	blob := randomBlob(testBlob)
	for what, spool := range map[string]Spool{"write": brokenSpool{newSpool(t)}, "read": lostSpool{newSpool(t)}} {
		h := newBlobHost(t, blob)
		s := fetched(t, openBlob(t, Options{}, h), BlobSpec{Spool: spool, Have: []Extent{{partSize, partSize + 10}}}, blob)
		if s.Spooled() {
			t.Errorf("%s: read from the spool", what)
		}
	}
}

// Whoever leaves early finds that nothing is written any more.
func TestLeaveParts(t *testing.T) {
	blob := randomBlob(testBlob)
	h := newBlobHost(t, blob)
	started := make(chan struct{}, 100)
	h.part = func(_ http.ResponseWriter, req *http.Request, _, _ int64) bool {
		started <- struct{}{}
		<-req.Context().Done()
		return true
	}
	r := openBlob(t, Options{}, h)
	s, err := r.Stream(context.Background(), BlobSpec{Digest: digest.FromBytes(blob), Size: testBlob, Spool: newSpool(t)})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-started
		s.Close()
	}()
	if _, err := io.Copy(io.Discard, s); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	s.Leave()
}

func TestCut(t *testing.T) {
	for _, c := range []struct {
		from, to int64
		have     []Extent
		want     string
	}{
		{0, 10, nil, "0-10"},
		{5, 2*partSize + 1, nil, fmt.Sprintf("5-%d %d-%d %d-%d", partSize, partSize, 2*partSize, 2*partSize, 2*partSize+1)},
		{5, 100, []Extent{{0, 3}, {2, 7}, {20, 30}, {90, 200}}, "+5-7 7-20 +20-30 30-90 +90-100"},
		{50, 100, []Extent{{0, 100}}, "+50-100"},
		{50, 100, []Extent{{200, 300}}, "50-100"},
	} {
		var got []string
		for _, p := range cut(c.from, c.to, c.have) {
			mark := ""
			if p.at == p.to {
				mark = "+"
			}
			got = append(got, fmt.Sprintf("%s%d-%d", mark, p.from, p.to))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v: %q, not %q", c, got, c.want)
		}
	}
}
