package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/berth-cri/berth/imageservice/failpoint"
)

// recordVersion is that of all records. A record of another version is set aside
// like a damaged one: what it described can be pulled again.
const recordVersion = 1

// maxRecordSize bounds what is read of a record file.
const maxRecordSize = 16 << 20

// errDamaged marks a record that is not whole.
var errDamaged = errors.New("record is damaged")

// envelope is what a record file holds. The sum tells a file that a power loss
// has torn.
type envelope struct {
	Version int             `json:"version"`
	Kind    string          `json:"kind"`
	SHA256  string          `json:"sha256"`
	Data    json.RawMessage `json:"data"`
}

// writeRecord replaces the file at path by a new record, atomically for every
// reader. It does not sync: a record that a power loss destroys is detected, and
// belongs to layers that are then not trusted either.
func writeRecord(path, kind string, data any) error {
	file, err := encodeRecord(kind, data)
	if err == nil {
		err = replaceFile(path, file)
	}
	if err != nil {
		return fmt.Errorf("write %s record: %w", kind, named(err))
	}
	return nil
}

// rewriteRecord is writeRecord for a record that may be on the disk already: a power
// loss leaves the old one or the new one. Not every file system sees to that by
// itself.
func rewriteRecord(path, kind string, data any) error {
	file, err := encodeRecord(kind, data)
	if err == nil {
		err = replaceDurably(path, file)
	}
	if err != nil {
		return fmt.Errorf("write %s record: %w", kind, named(err))
	}
	return nil
}

func encodeRecord(kind string, data any) ([]byte, error) {
	payload, err := json.Marshal(data)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(payload)
	return json.Marshal(envelope{Version: recordVersion, Kind: kind, SHA256: hex.EncodeToString(sum[:]), Data: payload})
}

// replaceFile writes beside path and renames.
func replaceFile(path string, content []byte) error {
	return replace(path, content, func(*os.File) error { return nil })
}

// replaceDurably is replaceFile that syncs the content before it takes the place of
// another.
func replaceDurably(path string, content []byte) error {
	return replace(path, content, (*os.File).Sync)
}

func replace(path string, content []byte, sync func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = sync(f)
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = failpoint.Hit("store/record/written")
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// tempPrefix begins the names of files that were not yet renamed into place.
const tempPrefix = ".tmp-"

func isTemp(name string) bool { return strings.HasPrefix(name, tempPrefix) }

// readRecord reads what writeRecord wrote. The error is errDamaged when the file
// is not whole, and os.ErrNotExist when there is none.
func readRecord(path, kind string, data any) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Size() > maxRecordSize {
		return fmt.Errorf("%s: %w: not a small regular file", path, errDamaged)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var env envelope
	if err := json.Unmarshal(file, &env); err != nil {
		return fmt.Errorf("%s: %w: %w", path, errDamaged, err)
	}
	sum := sha256.Sum256(env.Data)
	switch {
	case env.Version != recordVersion:
		return fmt.Errorf("%s: %w: version %d", path, errDamaged, env.Version)
	case env.Kind != kind:
		return fmt.Errorf("%s: %w: kind %q", path, errDamaged, env.Kind)
	case env.SHA256 != hex.EncodeToString(sum[:]):
		return fmt.Errorf("%s: %w: checksum differs", path, errDamaged)
	}
	if err := json.Unmarshal(env.Data, data); err != nil {
		return fmt.Errorf("%s: %w: %w", path, errDamaged, err)
	}
	return nil
}
