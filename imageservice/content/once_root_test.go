package content

import (
	"bytes"
	"context"
	"os"
	"testing"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// What a check reads of blobs does not come to the page cache.
func TestVerifyLeavesPageCacheAsItIs(t *testing.T) {
	const size, slack = 16<<20 + 5000, 1 << 20
	s := openStore(t, imagetest.OnDisk(t), "boot")
	d := put(t, s, bytes.Repeat([]byte("x"), size))
	if _, err := s.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(s.Path(d)); err != nil || imagetest.Cached(t, s.Path(d)) < size-slack {
		t.Fatalf("the blob cannot be told to be in the page cache: %v", err)
	}
	if err := s.Verify(d); err != nil {
		t.Fatal(err)
	}
	if got := imagetest.Cached(t, s.Path(d)); got > slack {
		t.Errorf("%d bytes of the blob are in the page cache", got)
	}
}
