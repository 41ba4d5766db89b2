package logfile

import (
	"os"
	"path/filepath"
	"testing"
)

type notes struct {
	at   Position
	took []byte
}

func (n *notes) Writing(at Position)   { n.at = at }
func (n *notes) Written(output []byte) { n.took = append([]byte(nil), output...) }

func TestRestoredPosition(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	w, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Append(Stdout, []byte("kept\n"), 0, false); err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var n notes
	if _, err := w.AppendNoted(Stdout, []byte("again\nand\nagain"), MaxLine, false, &n); err != nil {
		t.Fatal(err)
	}
	if string(n.took) != "again\nand\n" || n.at.Size != int64(len(kept)) {
		t.Errorf("noted %q at %d", n.took, n.at.Size)
	}
	// Rotated meanwhile, with another file in its place.
	rotated := filepath.Join(dir, "log.1")
	if err := os.Rename(path, rotated); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("a new file, which is none of ours to cut"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.at.Restore(path); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(rotated); string(got) != string(kept) {
		t.Errorf("restored to %q, want %q", got, kept)
	}
	if got, _ := os.ReadFile(path); len(got) < 30 {
		t.Errorf("the new file was cut to %q", got)
	}
	if err := os.Remove(rotated); err != nil {
		t.Fatal(err)
	}
	if err := n.at.Restore(path); err != nil {
		t.Errorf("a file that is gone: %v", err)
	}
	if err := n.at.Restore(filepath.Join(dir, "gone", "log")); err != nil {
		t.Errorf("a directory that is gone: %v", err)
	}
}
