package imageservice

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// maxPullMemory is what the process that pulls may hold, whatever the image is.
const maxPullMemory = 128 << 20

// In a process with this variable the test binary pulls one image, and tells its
// largest resident set, in KiB, without the program itself: that is in the page cache, of
// which the kernel maps as much as it likes. The registry is another process's.
const pullerImage = "BERTH_TEST_PULLER_IMAGE"

func bePuller(root, image string) {
	s, err := New(Options{Root: filepath.Join(root, "root")})
	if err == nil {
		_, err = pullImage(s, image)
	}
	// Not getrusage: its maximum is also that of the process that forked.
	status, serr := os.ReadFile("/proc/self/status")
	if err = errors.Join(err, serr); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(kibOf(string(status), "VmHWM") - kibOf(string(status), "RssFile"))
	os.Exit(0)
}

// kibOf reads a size in /proc/PID/status.
func kibOf(status, name string) (kib int) {
	_, rest, _ := strings.Cut(status, "\n"+name+":")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		fmt.Println(name, err)
		os.Exit(1)
	}
	return kib
}

func TestMemoryIsBounded(t *testing.T) {
	needRoot(t)
	r := newRegistry(t)
	var layers []imagetest.Layer
	for i := range 4 {
		layers = append(layers, bigLayer(24<<20+i<<20))
	}
	var files []imagetest.Entry
	for i := range 5000 {
		files = append(files, imagetest.File(fmt.Sprintf("d%d/file-with-a-name-%d", i%50, i), strings.Repeat("m", i%3000), 0o644))
	}
	layers = append(layers, layerOf(files...))
	name := push(t, r, "large", "1", imagetest.New(layers...))
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), victimRoot+"="+t.TempDir(), pullerImage+"="+name)
	out, err := cmd.Output()
	most, serr := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	most <<= 10
	if err != nil || serr != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%d MiB for an image of %d layers", most>>20, len(layers))
	if most > maxPullMemory {
		t.Errorf("%d bytes resident, more than %d", most, maxPullMemory)
	}
}
