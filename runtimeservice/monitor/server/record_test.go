package server

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"
	"time"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

func TestRecordsAreReadAsWritten(t *testing.T) {
	r := records{dir: t.TempDir()}
	want := &record{ID: "a", Pid: 7, StartTime: 9, StartedAt: time.Unix(1, 2).UTC(), LogPath: "/log", Exit: &protocol.Exit{Code: 3}}
	if err := r.save(&record{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	if err := r.save(want); err != nil {
		t.Fatal(err)
	}
	// Half a record of one that was killed, and one that is none.
	for name, text := range map[string]string{".b.tmp": `{"id":"b`, "c.json": "{", "d.json": `{"id":"e"}`} {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, errs := r.load()
	if len(all) != 1 || !reflect.DeepEqual(all[0], want) {
		t.Errorf("read %+v, want %+v", all, want)
	}
	if len(errs) != 2 {
		t.Errorf("errors %v, want one each of c and d", errs)
	}
	for range 2 {
		if err := r.remove("a"); err != nil {
			t.Error(err)
		}
	}
}

func TestRecordOnAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts a file system and needs root")
	}
	r := records{dir: t.TempDir()}
	if err := syscall.Mount("tmpfs", r.dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(r.dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := r.save(&record{ID: "a", Pid: 1}); err != nil {
		t.Fatal(err)
	}
	fill, err := os.Create(filepath.Join(r.dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer fill.Close()
	for err == nil {
		_, err = fill.Write(make([]byte, 1024))
	}
	for _, id := range []string{"a", "new"} {
		if err := r.save(&record{ID: id, Pid: 2}); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: %v", id, err)
		}
	}
	if all, errs := r.load(); len(all) != 1 || all[0].Pid != 1 || len(errs) != 0 {
		t.Errorf("records %v, errors %v", all, errs)
	}
	if left, err := filepath.Glob(filepath.Join(r.dir, ".*")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
