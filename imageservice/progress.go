package imageservice

import (
	"sort"
	"sync"
	"sync/atomic"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The stages of a pull.
const (
	StageResolve = "resolve"
	StageConfig  = "config"
	StageLayers  = "layers"
	StageCommit  = "commit"
)

// Pull is a snapshot of a running pull.
type Pull struct {
	Ref     string // normalised name
	Started time.Time
	Stage   string
	Layers  []LayerProgress
}

// LayerProgress is a snapshot of one layer of a running pull.
type LayerProgress struct {
	Digest   string // of the blob
	Size     int64  // bytes to fetch
	Fetched  int64  // bytes that are there so far
	Resumed  int64  // of these, what an earlier transfer has brought
	Unpacked int64  // bytes of the tar stream unpacked so far
	Done     bool
	Shared   bool // was there already, or another pull has fetched it
}

// Pulls returns snapshots of the running pulls, oldest first.
func (s *Service) Pulls() []Pull {
	s.mu.Lock()
	running := make([]*pull, 0, len(s.pulls))
	for _, p := range s.pulls {
		running = append(running, p)
	}
	s.mu.Unlock()
	list := make([]Pull, len(running))
	for i, p := range running {
		list[i] = p.progress.snapshot()
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Started.Before(list[j].Started) })
	return list
}

// progress is what a running pull tells of itself.
type progress struct {
	mu      sync.Mutex
	ref     string
	started time.Time
	now     string
	bars    []*layerBar
}

type layerBar struct {
	digest            string
	size              int64
	fetched, unpacked atomic.Int64
	resumed           atomic.Int64
	done, shared      atomic.Bool
}

func (p *progress) begin(ref string) {
	p.ref, p.started, p.now = ref, time.Now(), StageResolve
}

func (p *progress) stage(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = name
}

func (p *progress) layers(list []ocispec.Descriptor) []*layerBar {
	bars := make([]*layerBar, len(list))
	for i, d := range list {
		bars[i] = &layerBar{digest: d.Digest.String(), size: d.Size}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bars = bars
	return bars
}

func (p *progress) snapshot() Pull {
	p.mu.Lock()
	defer p.mu.Unlock()
	snap := Pull{Ref: p.ref, Started: p.started, Stage: p.now}
	for _, b := range p.bars {
		snap.Layers = append(snap.Layers, LayerProgress{
			Digest: b.digest, Size: b.size,
			Fetched: b.fetched.Load(), Unpacked: b.unpacked.Load(),
			Resumed: b.resumed.Load(),
			Done:    b.done.Load(), Shared: b.shared.Load(),
		})
	}
	return snap
}

// resume counts what an earlier transfer has brought.
func (b *layerBar) resume(n int64) {
	b.fetched.Add(n)
	b.resumed.Add(n)
}

func (b *layerBar) finish() { b.done.Store(true) }

func (b *layerBar) share() {
	b.shared.Store(true)
	b.done.Store(true)
}

// restart is for a layer that is fetched anew.
func (b *layerBar) restart() {
	b.fetched.Store(0)
	b.resumed.Store(0)
	b.unpacked.Store(0)
}
