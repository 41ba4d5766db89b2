package integration

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// How far a pull of the kubelet is shows in the operations, beside its pod, and in the
// metrics.
func TestProgressOfThePullsOfTheKubelet(t *testing.T) {
	address := freeAddress(t)
	d := ownDaemon(t, "metrics:\n  address: "+address+"\n")
	r := newRegistry(t)
	const size, half = 200_000, 100_000
	l := imagetest.NewLayer(imagetest.Tar(imagetest.File("f", strings.Repeat("x", size), 0o644)), imagetest.Plain)
	name, err := r.Push("it/slow", "1", imagetest.New(l))
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	r.Wrap(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if !strings.Contains(req.URL.Path, l.Descriptor.Digest.Encoded()) {
				next.ServeHTTP(w, req)
				return
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(l.Blob)))
			_, _ = w.Write(l.Blob[:half])
			w.(http.Flusher).Flush()
			<-release
			_, _ = w.Write(l.Blob[half:])
		})
	})
	config := podConfig(t)
	pulled := make(chan error, 1)
	go func() {
		_, err := d.images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: name}, nil, config)
		pulled <- err
	}()
	fetched, needed := fmt.Sprintf("berth_image_pull_running_fetched_bytes{image=%q}", name), fmt.Sprintf("berth_image_pull_running_size_bytes{image=%q}", name)
	eventually(t, "half of the layer shows in the operations", func() bool {
		ops := d.operations(t, "PullImage")
		return len(ops) == 1 && ops[0].Pod == config.Metadata.Name && len(ops[0].Steps) == 1 && ops[0].Steps[0].Stage == "fetch layers" &&
			strings.Contains(ops[0].Steps[0].WaitsFor, name+": layer 0/1, 100kB of ")
	})
	same(t, fetched, scrape(t, address, fetched), half)
	same(t, needed, scrape(t, address, needed), len(l.Blob))
	close(release)
	if err := <-pulled; err != nil {
		t.Fatal(err)
	}
	same(t, "pulls", scrape(t, address, `berth_image_pulls_total{result="pulled"}`), 1)
	same(t, "operations at the end", len(d.operations(t, "PullImage")), 0)
}
