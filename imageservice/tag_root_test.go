package imageservice

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

func names(t *testing.T, s *Service, id string) []string {
	t.Helper()
	img, err := s.lookup(id)
	if err != nil {
		t.Fatal(err)
	}
	refs := img.Refs()
	slices.Sort(refs)
	return refs
}

func TestTagAndUntag(t *testing.T) {
	var o Options
	s, r := newService(t, func(opts *Options) { o = *opts }), newRegistry(t)
	a, b := imagetest.New(someLayer("a")), imagetest.New(someLayer("b"))
	nameA, nameB := push(t, r, "test/a", "1", a), push(t, r, "test/b", "1", b)
	mustPull(t, s, nameA)
	mustPull(t, s, nameB)
	for range 2 { // it is idempotent
		if id, ref, err := s.Tag(context.Background(), nameA, "local.example/x"); err != nil || id != a.ID() || ref != "local.example/x:latest" {
			t.Fatal(id, ref, err)
		}
	}
	// The name moves, and leads to what the image came as.
	if _, _, err := s.Tag(context.Background(), b.ID(), "local.example/x:latest"); err != nil {
		t.Fatal(err)
	}
	digestB := strings.TrimSuffix(nameB, ":1") + "@" + b.Digest().String()
	if got := names(t, s, b.ID()); !slices.Equal(got, []string{nameB, digestB, "local.example/x:latest"}) {
		t.Errorf("names %q", got)
	}
	var saved bytes.Buffer
	if err := s.Save(context.Background(), &saved, []string{"local.example/x"}, false); err != nil {
		t.Error(err)
	}
	mount(t, s, "c1", b.ID())
	for _, name := range []string{"local.example/x", nameB, digestB} {
		if id, _, err := s.Untag(context.Background(), name); err != nil || id != b.ID() {
			t.Errorf("%s: %s, %v", name, id, err)
		}
	}
	if _, _, err := s.Untag(context.Background(), nameB); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("again: %v", err)
	}
	// The next process knows all of it.
	s.Close()
	next, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(next.Close)
	if got := names(t, next, b.ID()); len(got) != 0 {
		t.Errorf("names %q", got)
	}
	if err := next.RemoveRootfs(context.Background(), "c1"); err != nil {
		t.Error(err)
	}
	if got := names(t, next, nameA); len(got) != 2 {
		t.Errorf("names %q", got)
	}
	for _, id := range []string{a.ID(), b.ID()} {
		if err := next.RemoveImage(context.Background(), &runtimeapi.ImageSpec{Image: id}); err != nil {
			t.Error(err)
		}
	}
	wantNothing(t, next)
}

func TestTagRefuses(t *testing.T) {
	s, r := newService(t), newRegistry(t)
	image := imagetest.New(someLayer("a"))
	name := push(t, r, "test/a", "1", image)
	mustPull(t, s, name)
	for _, c := range []struct {
		name, tag string
		kind      error
	}{
		{"nobody.example/x", "a.example/x", errdefs.ErrNotFound},
		{name, "UPPER", errdefs.ErrInvalidArgument},
		{name, "", errdefs.ErrInvalidArgument},
		{name, "a.example/x@" + image.Digest().String(), errdefs.ErrInvalidArgument},
	} {
		if _, _, err := s.Tag(context.Background(), c.name, c.tag); !errors.Is(err, c.kind) {
			t.Errorf("%q as %q: %v", c.name, c.tag, err)
		}
	}
	if got := names(t, s, name); len(got) != 2 {
		t.Errorf("names %q", got)
	}
}
