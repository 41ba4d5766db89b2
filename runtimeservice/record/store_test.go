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
			if f.Type().Elem().Kind() == reflect.Slice {
				f.Set(reflect.ValueOf([][]byte{{1}, {0, 255}}))
			} else {
				f.SetBytes([]byte{byte(i), 0, 200})
			}
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

func TestPutOnFullDiskKeepsTheOldRecord(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Put("a", &Container{ID: "old"}); err != nil {
		t.Fatal(err)
	}
	// A directory in the way of the temporary file stands for a disk that
	// takes no more.
	if err := os.Mkdir(filepath.Join(dir, ".a.tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Put("a", &Container{ID: "new"}); err == nil {
		t.Fatal("Put succeeded")
	}
	if got, err := s.Get("a"); err != nil || got.ID != "old" {
		t.Errorf("record is %+v, %v", got, err)
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
