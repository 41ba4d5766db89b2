package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// DefaultFile is where berthd looks for its configuration unless it is told
// another place.
const DefaultFile = "/etc/berth/berthd.yaml"

// maxFileSize bounds one file, so that a wrong path cannot fill the memory.
const maxFileSize = 1 << 20

// socketName is the socket's name in the state directory.
const socketName = "berth.sock"

// Source says where a configuration comes from, lowest layer first.
type Source struct {
	// File is the main file. The folder with its name and ".d" behind it holds
	// the drop-ins, which are read even if the main file is not there.
	File string
	// Optional allows File to be absent.
	Optional bool
	// Overrides win over the files.
	Overrides []Override
}

// Override sets one key from elsewhere than a file.
type Override struct {
	// Key is the key's path, as in "log.level".
	Key string
	// Value is what a file would have there.
	Value string
	// Origin names the place in errors, as in "--log-level".
	Origin string
}

// Loaded is a configuration with its history.
type Loaded struct {
	Config Config
	// Files were read, in this order.
	Files []string
	// Origins tell which file and line, or which override, gave a leaf its
	// value. What is not in here has its default.
	Origins map[string]Origin
}

// Load puts together the default, the files and the overrides, completes what
// is derived from other keys and validates the result. The error names every
// wrong place with file, line and key, one to a line.
func Load(src Source) (*Loaded, error) {
	files, err := src.files()
	if err != nil {
		return nil, err
	}
	loaded := &Loaded{Config: Default(), Files: files}
	l := newLayering(&loaded.Config)
	var errs []error
	for _, file := range files {
		text, err := readFile(file)
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		errs = append(errs, l.add(file, text))
	}
	for _, o := range src.Overrides {
		errs = append(errs, l.set(o))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	complete(&loaded.Config)
	loaded.Origins = l.origins
	return loaded, loaded.validate()
}

// complete derives what was left open.
func complete(c *Config) {
	c.Address = strings.TrimPrefix(c.Address, "unix://") // as the kubelet writes it
	if c.Address == "" {
		c.Address = filepath.Join(c.State, socketName)
	}
	if c.NRI.Socket == "" {
		c.NRI.Socket = nriSocket(c.State)
	}
}

// The NRI socket that plugins look for is that of the node's runtime, which is the one
// with the usual state directory.
const (
	usualState         = "/run/berth"
	wellKnownNRISocket = "/var/run/nri/nri.sock"
	nriSocketName      = "nri.sock"
)

func nriSocket(state string) string {
	if state == usualState {
		return wellKnownNRISocket
	}
	return filepath.Join(state, nriSocketName)
}

// validate is Validate with the places of the keys.
func (l *Loaded) validate() error {
	var errs []error
	for _, p := range problems(&l.Config) {
		if origin, ok := l.origin(p.Key); ok {
			errs = append(errs, fmt.Errorf("%s: %w", origin, p))
		} else {
			errs = append(errs, p)
		}
	}
	return errors.Join(errs...)
}

// origin finds the place of a key or, if it is an item of a list or an entry of
// a map that was set as a whole, of what it is in.
func (l *Loaded) origin(key string) (Origin, bool) {
	for {
		if o, ok := l.Origins[key]; ok {
			return o, true
		}
		i := strings.LastIndexAny(key, ".[")
		if i < 0 {
			return Origin{}, false
		}
		key = key[:i]
	}
}

// files lists what is there to be read.
func (s Source) files() ([]string, error) {
	var files []string
	switch _, err := os.Stat(s.File); {
	case err == nil:
		files = append(files, s.File)
	case !s.Optional || !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	folder := s.File + ".d"
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read configuration folder: %w", err)
	}
	for _, e := range entries { // sorted by name
		if isDropIn(e.Name()) {
			files = append(files, filepath.Join(folder, e.Name()))
		}
	}
	return files, nil
}

// isDropIn tells a configuration file from what editors and package managers
// leave beside it.
func isDropIn(name string) bool {
	return !strings.HasPrefix(name, ".") && slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(name))
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFileSize {
		return nil, fmt.Errorf("%s: larger than %d bytes", name, maxFileSize)
	}
	return text, nil
}
