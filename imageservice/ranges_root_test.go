package imageservice

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-cri/berth/imageservice/imagetest"
	"golang.org/x/sys/unix"
)

// slowConnections serves blobs at a pace for each connection.
func slowConnections(m *meter, blob string, pause time.Duration) func(http.Handler) http.Handler {
	m.limit.Store(1 << 40)
	metered := m.wrap(blob)
	return func(next http.Handler) http.Handler {
		return metered(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			next.ServeHTTP(&pausingWriter{ResponseWriter: w, pause: pause}, req)
		}))
	}
}

type pausingWriter struct {
	http.ResponseWriter
	pause time.Duration
}

func (w *pausingWriter) Write(p []byte) (int, error) {
	const piece = 64 << 10
	for n := 0; n < len(p); {
		m, err := w.ResponseWriter.Write(p[n:min(n+piece, len(p))])
		if n += m; err != nil {
			return n, err
		}
		time.Sleep(w.pause)
	}
	return len(p), nil
}

// A pull from a host that is slow to each connection goes over to several. Killed
// there, it leaves parts, and the next process fetches what is between.
func TestResumeOfPartsAfterKill(t *testing.T) {
	needRoot(t)
	base, r := t.TempDir(), newRegistry(t)
	l := bigLayer(72 << 20)
	name := push(t, r, "big", "1", imagetest.New(l))
	var m meter
	r.Wrap(slowConnections(&m, l.Descriptor.Digest.Encoded(), 3*time.Millisecond))
	victim := exec.Command("/proc/self/exe")
	victim.Env = append(os.Environ(), victimRoot+"="+base, victimImages+"="+name)
	victim.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "requests for parts", func() bool { return m.ranges.Load() >= 5 })
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	s := newService(t, func(o *Options) { o.Root = filepath.Join(base, "root") })
	left, err := s.store.Partials()
	if err != nil || len(left) != 1 {
		t.Fatalf("left %+v, %v", left, err)
	}
	mustPull(t, s, name)
	if got := m.served.Load(); got > int64(len(l.Blob))+mayFetchTwice {
		t.Errorf("%d bytes served for a blob of %d", got, len(l.Blob))
	}
	if c := s.Counters(); int64(c.ResumedBytes) < left[0].Size-mayFetchTwice || c.ResumedBytes+c.BlobBytes != uint64(len(l.Blob)) {
		t.Errorf("left %d bytes; %+v", left[0].Size, c)
	}
}

// What a transfer left behind gaps is not fetched again, if it is right.
func TestGapsAreFilled(t *testing.T) {
	l := bigLayer(24 << 20)
	for what, damage := range map[string]bool{"right": false, "damaged": true} {
		s, r := newService(t), newRegistry(t)
		name := push(t, r, "big", "1", imagetest.New(l))
		var m meter
		m.limit.Store(1 << 40)
		r.Wrap(m.wrap(l.Descriptor.Digest.Encoded()))
		f, err := os.Create(filepath.Join(s.store.Root(), "partial", strings.Replace(l.Descriptor.Digest.String(), ":", "-", 1)))
		if err != nil {
			t.Fatal(err)
		}
		// Ends within a block, begins with one.
		for _, e := range [][2]int{{0, 5<<20 + 77}, {8 << 20, 12<<20 + 1}, {16 << 20, 23 << 20}} {
			piece := append([]byte(nil), l.Blob[e[0]:e[1]]...)
			if damage {
				piece[len(piece)/2]++
			}
			if _, err := f.WriteAt(piece, int64(e[0])); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
		mustPull(t, s, name)
		size := int64(len(l.Blob))
		if got := m.served.Load(); what == "right" && got > size-15<<20 || got > 2*size {
			t.Errorf("%s: %d bytes served for a blob of %d", what, got, size)
		}
		if list, err := s.store.Partials(); err != nil || len(list) != 0 {
			t.Errorf("%s: still kept: %+v, %v", what, list, err)
		}
	}
}
