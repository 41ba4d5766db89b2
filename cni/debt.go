package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
)

// debtVersion is the form of debts.
const debtVersion = 1

// debtSuffix and debtSeparator make the name of a debt's file, <pod ID>@<network>.json; the
// separator occurs in neither. A name alone is enough to pay a debt whose content a power
// loss took.
const (
	debtSuffix    = ".json"
	debtSeparator = "@"
	tempPattern   = ".debt-*"
)

// debt says that plugins may hold something for a pod: from before its ADD until a DEL has
// succeeded. It has all that the DEL needs, whatever becomes of the configuration.
type debt struct {
	Version int    `json:"version"`
	PodID   string `json:"podID"`
	Network string `json:"network"`
	IfName  string `json:"ifName"`
	NetNS   string `json:"netNS"`
	// Config is the whole configuration of the network as it was at the ADD.
	Config         json.RawMessage `json:"config"`
	Args           [][2]string     `json:"args"`
	CapabilityArgs map[string]any  `json:"capabilityArgs,omitempty"`
	// Skipped are the positions of plugins that had nothing to do at the ADD.
	Skipped []int     `json:"skipped,omitempty"`
	Created time.Time `json:"created"`
	// Released is set once the pod no longer needs the network: Run pays the debt.
	Released bool `json:"released,omitempty"`

	// nameOnly is set on a debt of which only the file's name could be read.
	nameOnly bool
}

func (d *debt) path(dir string) string {
	return filepath.Join(dir, d.PodID+debtSeparator+d.Network+debtSuffix)
}

func (d *debt) runtimeConf(netNS string) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{
		ContainerID:    d.PodID,
		NetNS:          netNS,
		IfName:         d.IfName,
		Args:           d.Args,
		CapabilityArgs: d.CapabilityArgs,
	}
}

// ledger keeps debts as files of a directory, one for a pod.
type ledger struct {
	dir string

	// mu guards debts, and the files with them: a debt that was paid must not be written
	// again by one who marks it.
	mu    sync.Mutex
	debts map[string]*debt // by pod ID; a debt in it does not change
}

// load takes up the debts of an earlier run and sweeps what interrupted writes left.
func (l *ledger) load() ([]*debt, error) {
	debts, err := readDebts(l.dir)
	if err != nil {
		return nil, err
	}
	leftovers, err := filepath.Glob(filepath.Join(l.dir, tempPattern))
	if err != nil {
		return nil, err
	}
	for _, path := range leftovers {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("sweep debts: %w", err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.debts = make(map[string]*debt, len(debts))
	for _, d := range debts {
		l.debts[d.PodID] = d
	}
	return debts, nil
}

// get returns nil for a pod without a debt.
func (l *ledger) get(podID string) *debt {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.debts[podID]
}

func (l *ledger) all() []*debt {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.debts))
}

// add records d, in place of an earlier debt of its pod. It survives a crash of this process
// at once, and a power loss when sync, the returned function, has returned nil.
func (l *ledger) add(d *debt) (sync func() error, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.save(d)
}

// release marks the debt of a pod, if it has one, as one that Run is to pay. held is where the
// namespace is from now on; "" is where it was. It is idempotent.
func (l *ledger) release(podID, held string) error {
	l.mu.Lock()
	d := l.debts[podID]
	if d == nil || d.Released && held == "" {
		l.mu.Unlock()
		return nil
	}
	released := *d
	released.Released = true
	if held != "" {
		released.NetNS = held
	}
	if d.nameOnly {
		// Its name is all that could be read, so that is all that may be kept of it.
		l.debts[podID] = &released
		l.mu.Unlock()
		return nil
	}
	sync, err := l.save(&released)
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return sync()
}

// remove is idempotent.
func (l *ledger) remove(d *debt) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := os.Remove(d.path(l.dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove debt of pod %q: %w", d.PodID, err)
	}
	delete(l.debts, d.PodID)
	return nil
}

// save replaces the file in one step: readers, other processes too, see the old or the new.
func (l *ledger) save(d *debt) (sync func() error, err error) {
	data, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("write debt of pod %q: %w", d.PodID, err)
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return nil, fmt.Errorf("write debt of pod %q: %w", d.PodID, err)
	}
	file, err := os.CreateTemp(l.dir, tempPattern)
	if err != nil {
		return nil, fmt.Errorf("write debt of pod %q: %w", d.PodID, full(err))
	}
	_, err = file.Write(data)
	if err == nil {
		err = os.Rename(file.Name(), d.path(l.dir))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write debt of pod %q: %w", d.PodID, full(err)), file.Close(), os.Remove(file.Name()))
	}
	l.debts[d.PodID] = d
	return func() error { return errors.Join(file.Sync(), file.Close(), syncDir(l.dir)) }, nil
}

// full gives the error of a full disk its kind.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	}
	return err
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// readDebts returns every debt of a directory, which may be another process's.
func readDebts(dir string) ([]*debt, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read debts: %w", err)
	}
	var debts []*debt
	for _, entry := range entries {
		d, err := readDebt(dir, entry.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if d != nil {
			debts = append(debts, d)
		}
	}
	return debts, nil
}

// readDebt returns nil for a file that is no debt. Of what a power loss left empty or cut, or
// a later version wrote, only the name is known.
func readDebt(dir, name string) (*debt, error) {
	stem, ok := strings.CutSuffix(name, debtSuffix)
	podID, network, isDebt := strings.Cut(stem, debtSeparator)
	if !ok || !isDebt || strings.HasPrefix(name, ".") {
		return nil, nil
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("read debt of pod %q: %w", podID, err)
	}
	d := new(debt)
	if err := json.Unmarshal(data, d); err != nil || d.Version != debtVersion || d.PodID != podID || d.Network != network {
		return &debt{Version: debtVersion, PodID: podID, Network: network, IfName: InterfaceName, nameOnly: true}, nil
	}
	return d, nil
}
