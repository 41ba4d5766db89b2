// Package imageservice keeps the images of a node: it pulls them from
// registries, unpacks their layers, names them, mounts root file systems made
// of them and removes what nothing needs any more.
package imageservice

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-cri/berth/imageservice/inflate"
	"github.com/berth-cri/berth/imageservice/manifest"
	"github.com/berth-cri/berth/imageservice/store"
	"github.com/berth-cri/berth/operation"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	defaultParallelLayers = 3
	// maxStreams bounds the layers that are unpacked at the same time by all pulls
	// together: each holds a few MiB.
	maxStreams           = 12
	defaultUsageInterval = 15 * time.Second
)

// Options say where a Service keeps its state and how it behaves. Zero values
// mean the defaults.
type Options struct {
	// Root is the directory that survives a reboot, /var/lib/berth.
	Root string
	// ImagesDir is the directory of images and layers, and WritableDir that of the
	// containers' writable layers; Root by default.
	ImagesDir, WritableDir string
	// WritableQuota is how writable layers are counted and limited.
	WritableQuota store.Quota
	// State is the directory that does not survive a reboot, for what is mounted;
	// Root by default.
	State string
	// CertsDirs hold <host>/hosts.toml, searched in order. They are read at every
	// pull.
	CertsDirs []string
	// Platform is the one to choose from an index; the node's own by default.
	Platform *ocispec.Platform
	// Pinned are image names, with path.Match patterns, that are reported as
	// pinned, so that the kubelet does not collect them.
	Pinned []string
	// ParallelLayers bounds how many layers of one image are fetched and
	// unpacked at the same time.
	ParallelLayers int
	// BlobConnections bounds the connections that one large blob is fetched over.
	BlobConnections int
	// StallTimeout ends a transfer that stays below the minimum progress for
	// this long.
	StallTimeout time.Duration
	// MinProgress is that minimum progress, in bytes.
	MinProgress int64
	// DockerConfig is the file with the node's own credentials, for pulls that come
	// without any; empty for none.
	DockerConfig string
	// Inflate chooses the decoder of gzip.
	Inflate inflate.Mode
	// RetryBackoff is the first wait before a request is sent again.
	RetryBackoff time.Duration
	// UsageInterval is the shortest time between two measurements of one
	// container's writable layer.
	UsageInterval time.Duration
	// PolicyFile is an image policy (package policy); empty for none. It is read
	// again when it has changed.
	PolicyFile string
	// DecryptionKeysDir is the folder with the private keys that open encrypted
	// layers; empty for none.
	DecryptionKeysDir string
	// DiscardBlobs keeps no layer in the form in which it came once it is unpacked. An
	// image without them cannot leave the node.
	DiscardBlobs bool
	// ImportDirs are folders whose archives are imported, and pinned as long as they are
	// there.
	ImportDirs []string
	// Operations lists imports while they run; nil for nowhere.
	Operations *operation.Registry
	// UserAgent is sent to registries.
	UserAgent string
	Logger    *slog.Logger
}

// Service is the image service. Its life: New opens the store, Run does what is
// to be done in the background, the other methods may be called from New on, and
// when Run's context ends the running pulls undo themselves.
type Service struct {
	opts     Options
	platform ocispec.Platform
	store    *store.Store
	log      *slog.Logger

	// pulls do not end with the call that started them, but with this.
	pullCtx  context.Context
	pullStop context.CancelCauseFunc
	running  sync.WaitGroup
	streams  chan struct{}
	dirty    chan struct{} // there are layers to sync

	mu     sync.Mutex // guards the maps
	pulls  map[string]*pull
	layers map[digest.Digest]*layerFlight

	survey     survey
	checking   sync.Mutex // held by the one Check that runs
	rootfs     keyedMutex // by container ID
	volumes    keyedMutex // by image ID
	admission  *admission
	decryption *decryption
	imports    *importer
	counters   counters
}

// counters only grow.
type counters struct {
	pulls, pullErrors, blobs, blobBytes, layers atomic.Uint64
	resumedBytes, unchanged, repaired, split    atomic.Uint64
}

// Counters are totals since New.
type Counters struct {
	Pulls      uint64 // that were run, not those that joined one
	PullErrors uint64
	Blobs      uint64 // layer blobs whose transfer was begun
	BlobBytes  uint64 // fetched for layers
	Layers     uint64 // unpacked

	ResumedBytes uint64 // of layers, that an earlier transfer had brought
	Unchanged    uint64 // pulls that found the image as the registry has it
	Repaired     uint64 // damaged layers and images that were fetched again
	Split        uint64 // blobs that were fetched over several connections
}

// errStopped is why pulls end when the daemon does.
var errStopped = fmt.Errorf("the image service stops: %w", errdefs.ErrUnavailable)

// New opens the store below Options.Root. What an earlier process left unfinished
// is out of sight when it returns, and removed by Run.
func New(o Options) (*Service, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.ParallelLayers <= 0 {
		o.ParallelLayers = defaultParallelLayers
	}
	o.State = cmp.Or(o.State, o.Root)
	if o.UsageInterval <= 0 {
		o.UsageInterval = defaultUsageInterval
	}
	for _, pattern := range o.Pinned {
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("pinned image pattern %q: %w: %w", pattern, err, errdefs.ErrInvalidArgument)
		}
	}
	s := &Service{
		opts: o, log: o.Logger,
		platform: manifest.Host(),
		streams:  make(chan struct{}, maxStreams),
		dirty:    make(chan struct{}, 1),
		pulls:    map[string]*pull{},
		layers:   map[digest.Digest]*layerFlight{},
	}
	if o.Platform != nil {
		s.platform = *o.Platform
	}
	var err error
	if s.admission, err = newAdmission(o.PolicyFile, o.Logger); err != nil {
		return nil, err
	}
	if s.decryption, err = newDecryption(o.DecryptionKeysDir, o.Logger); err != nil {
		return nil, err
	}
	if s.store, err = store.Open(store.Places{Root: o.Root, Images: o.ImagesDir, Writable: o.WritableDir}, o.WritableQuota, o.Logger); err != nil {
		return nil, err
	}
	s.imports = newImporter(s, o.ImportDirs)
	s.pullCtx, s.pullStop = context.WithCancelCause(context.Background())
	return s, nil
}

// Run removes leftovers, brings pulled layers to the disk and measures the
// writable layers of containers, until ctx ends. Then it ends the running pulls
// and waits until they have undone themselves. It returns nil.
func (s *Service) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.sweep() })
	wg.Go(func() { s.syncLoop(ctx) })
	wg.Go(func() { s.usageLoop(ctx) })
	wg.Go(func() { s.expireLoop(ctx) })
	wg.Go(func() { s.reconcileLoop(ctx) })
	wg.Go(func() { s.imports.run(ctx) })
	<-ctx.Done()
	s.Close()
	wg.Wait()
	return nil
}

// Close ends the running pulls and waits for them; new ones are refused. Run does
// this when it ends. It is idempotent.
func (s *Service) Close() {
	s.mu.Lock()
	s.pullStop(errStopped)
	s.mu.Unlock()
	s.running.Wait()
}

func (s *Service) sweep() {
	if err := errors.Join(s.sweepVolumes(), s.store.Sweep()); err != nil {
		s.log.Warn("remove what an earlier run left", "error", err)
	}
}

// syncLoop brings the layers to the disk some time after a pull, so that neither
// the pull nor the start of its containers waits for that.
func (s *Service) syncLoop(ctx context.Context) {
	const settle = 2 * time.Second
	s.markDirty()
	for {
		select {
		case <-ctx.Done():
		case <-s.dirty:
		}
		select {
		case <-ctx.Done():
		case <-time.After(settle):
		}
		n, err := s.syncStore(ctx)
		if err != nil {
			s.log.Warn("bring layers to the disk", "error", err)
		} else if n > 0 {
			s.log.Debug("layers are on the disk", "layers", n)
		}
		if ctx.Err() != nil {
			return // with all on the disk: the machine may go down next
		}
	}
}

// syncStore goes on for a while when ctx has ended. What is not done by then, the
// next process goes on with.
func (s *Service) syncStore(ctx context.Context) (int, error) {
	const last = 20 * time.Second
	syncing, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(last, cancel) })()
	return s.store.Sync(syncing)
}

func (s *Service) markDirty() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// Counters returns the totals so far.
func (s *Service) Counters() Counters {
	c := &s.counters
	return Counters{
		Pulls: c.pulls.Load(), PullErrors: c.pullErrors.Load(),
		Blobs: c.blobs.Load(), BlobBytes: c.blobBytes.Load(), Layers: c.layers.Load(),
		ResumedBytes: c.resumedBytes.Load(), Unchanged: c.unchanged.Load(), Repaired: c.repaired.Load(),
		Split: c.split.Load(),
	}
}

// keyedMutex is a mutex for each key.
type keyedMutex struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	mu    sync.Mutex
	users int
}

// lock waits for the key and returns the function that frees it.
func (k *keyedMutex) lock(key string) func() {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*keyLock{}
	}
	l, ok := k.held[key]
	if !ok {
		l = &keyLock{}
		k.held[key] = l
	}
	l.users++
	k.mu.Unlock()
	l.mu.Lock()
	return func() {
		l.mu.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.held, key)
		}
	}
}

// isNotFound is for lookups where a miss is an answer.
func isNotFound(err error) bool { return errors.Is(err, errdefs.ErrNotFound) }
