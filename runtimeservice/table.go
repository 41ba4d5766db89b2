package runtimeservice

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
)

// table finds what there is, by ID or the beginning of one and by the metadata
// that a client names it with. It is locked for a look-up only, never while
// something is done to an entry.
type table[K comparable, T any] struct {
	kind string // for errors: "sandbox", "container"

	mu    sync.RWMutex
	byID  map[string]T
	byKey map[K]string
}

func newTable[K comparable, T any](kind string) *table[K, T] {
	return &table[K, T]{kind: kind, byID: make(map[string]T), byKey: make(map[K]string)}
}

func (t *table[K, T]) add(id string, key K, value T) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byID[id] = value
	t.byKey[key] = id
}

func (t *table[K, T]) remove(id string, key K) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byID, id)
	if t.byKey[key] == id {
		delete(t.byKey, key)
	}
}

// find returns the entry whose ID is id or, if there is only one such, begins
// with it. The error is ErrNotFound or ErrInvalidArgument.
func (t *table[K, T]) find(id string) (T, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if value, ok := t.byID[id]; ok {
		return value, nil
	}
	var (
		found T
		none  T
		n     int
	)
	if id == "" {
		return none, fmt.Errorf("%s ID is empty: %w", t.kind, errdefs.ErrInvalidArgument)
	}
	for full, value := range t.byID {
		if strings.HasPrefix(full, id) {
			found = value
			n++
		}
	}
	switch n {
	case 0:
		return none, fmt.Errorf("%s %q: %w", t.kind, id, errdefs.ErrNotFound)
	case 1:
		return found, nil
	default:
		return none, fmt.Errorf("%s %q: %d IDs begin with it: %w", t.kind, id, n, errdefs.ErrInvalidArgument)
	}
}

// get returns the entry with exactly that ID.
func (t *table[K, T]) get(id string) (T, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	value, ok := t.byID[id]
	return value, ok
}

// named returns the ID of the entry with that key.
func (t *table[K, T]) named(key K) (string, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	id, ok := t.byKey[key]
	return id, ok
}

func (t *table[K, T]) all() []T {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Collect(maps.Values(t.byID))
}
