package imageservice

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"golang.org/x/sys/unix"
)

// mayFetchTwice is what a transfer that was cut may cost once more.
const mayFetchTwice = 4 << 20

// bigLayer has bytes that do not compress.
func bigLayer(size int) imagetest.Layer {
	content := make([]byte, size)
	random := rand.NewChaCha8([32]byte{byte(size >> 20)})
	_, _ = random.Read(content)
	return layerOf(imagetest.File("big", string(content), 0o644))
}

// meter counts the bytes of a blob that a registry serves, lets them through at a
// pace that a client keeps up with, and ends each answer at a limit.
type meter struct {
	served, limit atomic.Int64
	ranges        atomic.Int64 // requests for a part
}

func (m *meter) wrap(blob string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if !strings.Contains(req.URL.Path, blob) {
				next.ServeHTTP(w, req)
				return
			}
			if req.Header.Get("Range") != "" {
				m.ranges.Add(1)
			}
			next.ServeHTTP(&meterWriter{ResponseWriter: w, m: m}, req)
		})
	}
}

type meterWriter struct {
	http.ResponseWriter
	m *meter
}

func (w *meterWriter) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		if w.m.served.Load() >= w.m.limit.Load() {
			w.ResponseWriter.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		m, err := w.ResponseWriter.Write(p[n:min(n+64<<10, len(p))])
		w.m.served.Add(int64(m))
		if n += m; err != nil {
			return n, err
		}
		w.ResponseWriter.(http.Flusher).Flush()
		time.Sleep(500 * time.Microsecond)
	}
	return len(p), nil
}

// A pull that failed leaves what it fetched, and the next process goes on there.
func TestResumeAfterRestart(t *testing.T) {
	root, r := t.TempDir(), newRegistry(t)
	l := bigLayer(24 << 20)
	name := push(t, r, "big", "1", imagetest.New(l))
	var m meter
	r.Wrap(m.wrap(l.Descriptor.Digest.Encoded()))
	size := int64(len(l.Blob))
	for _, limit := range []int64{10 << 20, 18 << 20} {
		m.limit.Store(limit)
		s := newService(t, func(o *Options) { o.Root = root })
		if _, err := pullImage(s, name); err == nil {
			t.Fatal("pulled from a registry that serves a part")
		}
		list, err := s.store.Partials()
		if err != nil || len(list) != 1 || list[0].Digest != l.Descriptor.Digest || list[0].Size < limit-mayFetchTwice {
			t.Fatalf("kept %+v, %v", list, err)
		}
		s.Close()
	}
	m.limit.Store(1 << 40)
	s := newService(t, func(o *Options) { o.Root = root })
	mustPull(t, s, name)
	if got := m.served.Load(); got > size+mayFetchTwice {
		t.Errorf("%d bytes served for a blob of %d", got, size)
	}
	if c := s.Counters(); c.ResumedBytes < 10<<20 {
		t.Errorf("%+v", c)
	}
	if list, err := s.store.Partials(); err != nil || len(list) != 0 {
		t.Errorf("still kept: %+v, %v", list, err)
	}
}

// The same when the process is killed while it fetches.
func TestResumeAfterKill(t *testing.T) {
	needRoot(t)
	base, r := t.TempDir(), newRegistry(t)
	l := bigLayer(24 << 20)
	name := push(t, r, "big", "1", imagetest.New(l))
	var m meter
	m.limit.Store(1 << 40)
	r.Wrap(m.wrap(l.Descriptor.Digest.Encoded()))
	victim := exec.Command("/proc/self/exe")
	victim.Env = append(os.Environ(), victimRoot+"="+base, victimImages+"="+name)
	victim.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "half of the blob", func() bool { return m.served.Load() > 12<<20 })
	if err := errors.Join(victim.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	s := newService(t, func(o *Options) { o.Root = filepath.Join(base, "root") })
	mustPull(t, s, name)
	if got := m.served.Load(); got > int64(len(l.Blob))+mayFetchTwice || m.ranges.Load() == 0 {
		t.Errorf("%d bytes served for a blob of %d, %d requests for a part", got, len(l.Blob), m.ranges.Load())
	}
}

// What is kept may be wrong: by a disk that lost it, or a registry that lied.
func TestWrongBeginningIsFetchedAgain(t *testing.T) {
	l := bigLayer(8 << 20)
	for what, keep := range map[string][]byte{
		"zeros":           make([]byte, 6<<20),
		"too long":        make([]byte, len(l.Blob)+1),
		"all":             l.Blob,
		"most":            l.Blob[:len(l.Blob)-1],
		"whole but wrong": make([]byte, len(l.Blob)),
	} {
		s, r := newService(t), newRegistry(t)
		name := push(t, r, "big", "1", imagetest.New(l))
		path := filepath.Join(s.store.Root(), "partial", strings.Replace(l.Descriptor.Digest.String(), ":", "-", 1))
		if err := os.WriteFile(path, keep, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pullImage(s, name); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if got := len(r.Requests("/blobs/" + l.Descriptor.Digest.String())); what == "all" && got != 0 {
			t.Errorf("%s: fetched %d times", what, got)
		}
		if list, err := s.store.Partials(); err != nil || len(list) != 0 {
			t.Errorf("%s: still kept: %+v, %v", what, list, err)
		}
	}
}

// An unchanged tag costs one HEAD; a moved one is noticed.
func TestUnchangedTagCostsOneHead(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	name := push(t, r, "app", "v1", small("x"))
	id := mustPull(t, s, name)
	before := len(r.Requests(""))
	if got := mustPull(t, s, name); got != id {
		t.Error(got)
	}
	if asked := r.Requests("")[before:]; len(asked) != 1 || asked[0] != "HEAD /v2/app/manifests/v1" {
		t.Errorf("asked %q", asked)
	}
	moved := push(t, r, "app", "v1", small("y"))
	if got := mustPull(t, s, moved); got == id {
		t.Error("the tag has moved and its old image was taken")
	}
	// A host that refuses HEAD costs a request more, not the pull.
	r.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodHead {
				w.WriteHeader(http.StatusMethodNotAllowed)
				return
			}
			next.ServeHTTP(w, req)
		})
	})
	mustPull(t, s, name)
}

// One image with very many tags.
func TestManyTags(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	i := small("x")
	content, mediaType := i.Manifest()
	push(t, r, "app", "t0", i)
	const tags = 300
	for n := range tags {
		if err := r.PutManifest("app", fmt.Sprint("t", n), mediaType, content); err != nil {
			t.Fatal(err)
		}
		mustPull(t, s, fmt.Sprintf("%s/app:t%d", r.Host, n))
	}
	if asked := r.Requests("/tags/"); len(asked) != 0 {
		t.Errorf("tags were read: %q", asked)
	}
	if img := status(t, s, r.Host+"/app:t7"); len(img.RepoTags) != tags || len(img.RepoDigests) != 1 {
		t.Errorf("%d tags, %d digests", len(img.RepoTags), len(img.RepoDigests))
	}
}
