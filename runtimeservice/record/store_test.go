package record

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

func open(t *testing.T, dir string) *Store[Container] {
	t.Helper()
	s, err := Open[Container](dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// full sets every field, so that one that is not saved shows.
func full(t *testing.T) *Container {
	c := &Container{}
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString(v.Type().Field(i).Name)
		case reflect.Int, reflect.Int32, reflect.Int64:
			f.SetInt(int64(i + 1))
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Slice:
			switch f.Type().Elem().Kind() {
			case reflect.Struct:
				f.Set(reflect.ValueOf([]Step{{Stage: "pull", Image: "i", BeganAt: 1, Took: 2}}))
			case reflect.Slice:
				f.Set(reflect.ValueOf([][]byte{{1}, {0, 255}}))
			default:
				f.SetBytes([]byte{byte(i), 0, 200})
			}
		case reflect.Map:
			f.Set(reflect.ValueOf(map[string]string{"a": "b"}))
		default:
			t.Fatalf("field %s: kind %s is not known to this test", v.Type().Field(i).Name, f.Kind())
		}
	}
	return c
}

func TestPutLoad(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	want := full(t)
	if err := s.Put("a", want); err != nil {
		t.Fatal(err)
	}
	if err := s.Put("b", &Container{ID: "b"}); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete("b"); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete("b"); err != nil {
		t.Errorf("second delete: %v", err)
	}
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	all, err := open(t, dir).Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || !reflect.DeepEqual(all["a"], want) {
		t.Errorf("loaded %+v, want only %+v", all, want)
	}
	if _, err := s.Get("b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("get of a deleted record: %v", err)
	}
}

func TestLoadSetsTornFilesAside(t *testing.T) {
	whole, err := encode(&Container{ID: "whole"})
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte(nil), whole...)
	for i := range flipped {
		if flipped[i] == 'w' { // the ID's first letter: still valid JSON
			flipped[i] = 'W'
			break
		}
	}
	for name, raw := range map[string][]byte{
		"empty":       {},
		"cut":         whole[:len(whole)/2],
		"zeroes":      make([]byte, len(whole)),
		"bit flip":    flipped,
		"new version": []byte(`{"version":99,"crc32c":"00000000","data":{}}`),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range map[string][]byte{"good.json": whole, "bad.json": raw, ".x.tmp": raw} {
				if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			all, err := open(t, dir).Load()
			if err != nil {
				t.Fatal(err)
			}
			if len(all) != 1 || all["good"] == nil || all["good"].ID != "whole" {
				t.Errorf("loaded %v, want the good one", all)
			}
			aside, _ := filepath.Glob(filepath.Join(dir, damagedDir, "bad.json.*"))
			if len(aside) != 1 {
				t.Errorf("files set aside: %v", aside)
			}
			for _, gone := range []string{"bad.json", ".x.tmp"} {
				if _, err := os.Stat(filepath.Join(dir, gone)); !os.IsNotExist(err) {
					t.Errorf("%s is still there (%v)", gone, err)
				}
			}
		})
	}
}

func TestTheLastWholeLineHolds(t *testing.T) {
	one, err := encode(&Container{ID: "one"})
	if err != nil {
		t.Fatal(err)
	}
	two, err := encode(&Container{ID: "two"})
	if err != nil {
		t.Fatal(err)
	}
	join := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	for name, c := range map[string]struct {
		raw  []byte
		want string
		size int
	}{
		"two lines":     {join(one, two), "two", len(one) + len(two)},
		"cut off":       {join(one, two[:len(two)-20]), "one", len(one)},
		"without end":   {join(one, two[:len(two)-1]), "one", len(one)},
		"zeroes":        {join(one, make([]byte, 4096)), "one", len(one)},
		"zeroes, lines": {join(one, []byte("\x00\x00\n\n\x00")), "one", len(one)},
		"cut in middle": {join(one, two[:10], []byte("\n"), two), "two", len(one) + 11 + len(two)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "a.json")
			if err := os.WriteFile(path, c.raw, 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, dir)
			all, err := s.Load()
			if err != nil || all["a"] == nil || all["a"].ID != c.want {
				t.Fatalf("loaded %v, %v; want %s", all["a"], err, c.want)
			}
			if info, err := os.Stat(path); err != nil || info.Size() != int64(c.size) {
				t.Errorf("file is %v, %v; want %d bytes", info, err, c.size)
			}
			// What is appended must not become part of what was cut off.
			if err := s.Put("a", &Container{ID: "three"}); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Get("a"); err != nil || got.ID != "three" {
				t.Errorf("then %v, %v", got, err)
			}
		})
	}
}

func TestFilesThatGrowAreRewritten(t *testing.T) {
	s := open(t, t.TempDir())
	config := make([]byte, 20<<10)
	for i := range 100 {
		if err := s.Put("a", &Container{Config: config, ExitCode: int32(i)}); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Get("a"); err != nil || got.ExitCode != int32(i) {
			t.Fatalf("put %d, got %v, %v", i, got, err)
		}
	}
	if info, err := os.Stat(s.path("a")); err != nil || info.Size() > 2*compactAbove {
		t.Errorf("file is %v, %v", info, err)
	}
}

func TestPutOnFullDisk(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := os.Symlink("/dev/full", s.path("new")); err != nil {
		t.Fatal(err)
	}
	if err := s.Put("new", &Container{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("error is %v", err)
	}
	if all, err := s.Load(); err != nil || len(all) != 0 {
		t.Errorf("then there is %v, %v", all, err)
	}
}

func TestRunSyncsWhenItEnds(t *testing.T) {
	s := open(t, t.TempDir())
	if err := s.Put("a", &Container{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if len(s.dirty) != 0 {
		t.Errorf("still dirty: %v", s.dirty)
	}
}
