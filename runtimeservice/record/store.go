package record

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	suffix = ".json"
	// damagedDir is where files go that are no whole record.
	damagedDir = "damaged"
	// syncEvery bounds how long a record may be in memory only.
	syncEvery = time.Second
	// compactAbove is the size from which a file is written anew. A record is a
	// few kilobytes and changes a few times in its life.
	compactAbove = 256 << 10
	// loaders is how many files are read at a time at start.
	loaders = 4
)

// Store is a directory of records of one type. Its methods may be called at the
// same time; two Puts of one ID must be ordered by the caller.
type Store[T any] struct {
	dir string
	log *slog.Logger

	mu    sync.Mutex
	dirty map[string]struct{} // IDs written and not synced
	gone  bool                // a file was removed and the directory not synced
}

// Open makes dir where it does not exist. It starts nothing; Run syncs.
func Open[T any](dir string, log *slog.Logger) (*Store[T], error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make record directory: %w", err)
	}
	return &Store[T]{dir: dir, log: log, dirty: make(map[string]struct{})}, nil
}

// Put replaces the record of id. What was there before holds until the new one is
// whole, and after an error; it is on disk within a second, if Run runs.
func (s *Store[T]) Put(id string, v *T) error {
	line, err := encode(v)
	if err != nil {
		return fmt.Errorf("encode record of %s: %w", id, err)
	}
	if err := s.put(id, line); err != nil {
		return fmt.Errorf("write record of %s: %w", id, err)
	}
	s.mu.Lock()
	s.dirty[id] = struct{}{}
	s.mu.Unlock()
	return nil
}

func (s *Store[T]) put(id string, line []byte) error {
	file, err := os.OpenFile(s.path(id), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if size > compactAbove {
		return s.rewrite(id, line)
	}
	n, err := file.Write(line)
	switch {
	case err == nil:
		return nil
	case size == 0:
		return errors.Join(err, ignoreNotExist(os.Remove(s.path(id))))
	case n > 0:
		return errors.Join(err, file.Truncate(size))
	default:
		return err
	}
}

// rewrite makes a file that has only the line, in place of one that has grown.
func (s *Store[T]) rewrite(id string, line []byte) error {
	tmp := filepath.Join(s.dir, "."+id+".tmp")
	err := func() error {
		file, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		defer file.Close()
		if _, err := file.Write(line); err != nil {
			return err
		}
		// The old file is complete: it may only go when the new one cannot.
		if err := file.Sync(); err != nil {
			return err
		}
		return os.Rename(tmp, s.path(id))
	}()
	if err != nil {
		return errors.Join(err, ignoreNotExist(os.Remove(tmp)))
	}
	return nil
}

// Delete removes the record of id; one that does not exist is no error.
func (s *Store[T]) Delete(id string) error {
	if err := ignoreNotExist(os.Remove(s.path(id))); err != nil {
		return fmt.Errorf("remove record of %s: %w", id, err)
	}
	s.mu.Lock()
	delete(s.dirty, id)
	s.gone = true
	s.mu.Unlock()
	return nil
}

// Get reads the record of id; the error wraps fs.ErrNotExist where there is
// none.
func (s *Store[T]) Get(id string) (*T, error) {
	raw, err := os.ReadFile(s.path(id))
	if err != nil {
		return nil, fmt.Errorf("read record of %s: %w", id, err)
	}
	v := new(T)
	if _, err := last(raw, v); err != nil {
		return nil, fmt.Errorf("read record of %s: %w", id, err)
	}
	return v, nil
}

// Load reads all records, by ID. Temporary files are removed; files without a
// whole record are moved into a directory beside and logged.
func (s *Store[T]) Load() (map[string]*T, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var (
		mu    sync.Mutex
		all   = make(map[string]*T, len(entries))
		group errgroup.Group
	)
	group.SetLimit(loaders)
	for _, entry := range entries {
		name := entry.Name()
		switch id, isRecord := strings.CutSuffix(name, suffix); {
		case strings.HasSuffix(name, ".tmp"):
			if err := ignoreNotExist(os.Remove(filepath.Join(s.dir, name))); err != nil {
				return nil, fmt.Errorf("remove interrupted record: %w", err)
			}
		case isRecord:
			group.Go(func() error {
				v, err := s.load(id)
				if err != nil || v == nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				all[id] = v
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return all, nil
}

// load is Get that puts a damaged file right: it cuts off what comes after the
// last whole line, or sets the file aside if there is none, and returns nil then.
func (s *Store[T]) load(id string) (*T, error) {
	raw, err := os.ReadFile(s.path(id))
	if err != nil {
		return nil, fmt.Errorf("read record of %s: %w", id, err)
	}
	v := new(T)
	whole, err := last(raw, v)
	if err != nil {
		return nil, s.setAside(id+suffix, err)
	}
	if whole < len(raw) {
		s.log.Warn("record's last change was cut off; the one before holds", "id", id, "bytes", len(raw)-whole)
		if err := os.Truncate(s.path(id), int64(whole)); err != nil {
			return nil, fmt.Errorf("cut damaged record of %s: %w", id, err)
		}
	}
	return v, nil
}

func (s *Store[T]) setAside(name string, why error) error {
	dir := filepath.Join(s.dir, damagedDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory for damaged records: %w", err)
	}
	to := filepath.Join(dir, fmt.Sprintf("%s.%d", name, time.Now().UnixNano()))
	if err := os.Rename(filepath.Join(s.dir, name), to); err != nil {
		return fmt.Errorf("set damaged record aside: %w", err)
	}
	s.log.Error("record is damaged and set aside", "file", name, "moved to", to, "error", why)
	return nil
}

// Run syncs what was put, once a second, until ctx ends, and a last time then.
func (s *Store[T]) Run(ctx context.Context) error {
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return s.Sync()
		case <-tick.C:
			if err := s.Sync(); err != nil {
				s.log.Error("sync records", "error", err)
			}
		}
	}
}

// Sync brings to disk what was put and deleted so far.
func (s *Store[T]) Sync() error {
	s.mu.Lock()
	dirty, gone := s.dirty, s.gone
	s.dirty, s.gone = make(map[string]struct{}), false
	s.mu.Unlock()
	if len(dirty) == 0 && !gone {
		return nil
	}
	var errs []error
	for id := range dirty {
		if err := ignoreNotExist(syncPath(s.path(id))); err != nil {
			errs = append(errs, fmt.Errorf("sync record of %s: %w", id, err))
		}
	}
	if err := syncPath(s.dir); err != nil {
		errs = append(errs, fmt.Errorf("sync record directory: %w", err))
	}
	return errors.Join(errs...)
}

func (s *Store[T]) path(id string) string { return filepath.Join(s.dir, id+suffix) }

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
