package encryption

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// passwordSuffix ends the name of the file with the password of the key beside it.
const passwordSuffix = ".password"

// Limits of the folder of keys.
const (
	maxKeyFile  = 1 << 20
	maxKeyFiles = 1000
)

// Keys are the node's private keys and certificates: the files of a folder, which is
// looked at whenever a key is needed. Files may come and go at any time; one that is
// gone opens nothing any more.
type Keys struct {
	dir string // empty: there are none
	log *slog.Logger

	mu    sync.Mutex
	stamp string
	keys  *ring
}

// ring is what the folder held. It is not changed.
type ring struct {
	private      [][]byte // PKCS #8 or JWK
	certificates [][]byte // DER
}

// Open reads the folder; "" stands for no keys. A file that is neither key nor
// certificate nor password is an error.
func Open(dir string, log *slog.Logger) (*Keys, error) {
	k := &Keys{dir: dir, log: log, keys: &ring{}}
	if dir == "" {
		return k, nil
	}
	files, stamp, err := look(dir)
	if err != nil {
		return nil, fmt.Errorf("read decryption keys: %w", err)
	}
	if k.keys, err = load(files); err != nil {
		return nil, fmt.Errorf("read decryption keys: %w", err)
	}
	k.stamp = stamp
	return k, nil
}

// Stamp tells one state of the folder from another.
func (k *Keys) Stamp() string {
	k.current()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stamp
}

// current reads the folder again if it has changed. What cannot be read opens
// nothing.
func (k *Keys) current() *ring {
	if k.dir == "" {
		return k.keys
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	files, stamp, err := look(k.dir)
	if err == nil && stamp == k.stamp {
		return k.keys
	}
	if err != nil {
		k.log.Error("decryption keys cannot be read: no encrypted image is let through", "error", err)
		k.keys, k.stamp = &ring{}, ""
		return k.keys
	}
	k.keys, err = load(files)
	k.stamp = stamp
	if err != nil {
		k.log.Error("some decryption keys are left out", "error", err)
	}
	k.log.Info("decryption keys were read", "folder", k.dir, "keys", len(k.keys.private))
	return k.keys
}

// look lists the files of the folder. Names that begin with a dot are not keys: a
// mounted Kubernetes secret has such.
func look(dir string) (files []string, stamp string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, "", err
	}
	if len(entries) > maxKeyFiles {
		return nil, "", fmt.Errorf("%s has more than %d files", dir, maxKeyFiles)
	}
	var state strings.Builder
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went just now
		}
		if err != nil {
			return nil, "", err
		}
		if info.IsDir() {
			continue
		}
		var inode uint64
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			inode = st.Ino
		}
		fmt.Fprintf(&state, "%s\x00%d\x00%d\x00%d\n", e.Name(), info.Size(), info.ModTime().UnixNano(), inode)
		files = append(files, path)
	}
	return files, state.String(), nil
}

// load reads all files, those with mistakes left out; the error names each of them.
func load(files []string) (*ring, error) {
	r := &ring{}
	var errs []error
	for _, path := range files {
		if strings.HasSuffix(path, passwordSuffix) {
			continue
		}
		if err := r.addFile(path); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
		}
	}
	return r, errors.Join(errs...)
}

func (r *ring) addFile(path string) error {
	content, err := readSmall(path)
	if err != nil {
		return err
	}
	password, err := readSmall(path + passwordSuffix)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return r.add(content, []byte(strings.TrimRight(string(password), "\r\n")))
}

func readSmall(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxKeyFile {
		return nil, fmt.Errorf("is not a regular file of at most %d bytes", maxKeyFile)
	}
	return io.ReadAll(io.LimitReader(f, maxKeyFile))
}
