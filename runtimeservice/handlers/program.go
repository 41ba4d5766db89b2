package handlers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lookTime bounds a look at a program, which is run up to three times.
const lookTime = 10 * time.Second

// errLooking is the state before the first look has ended.
var errLooking = errors.New("its program has not answered yet")

// program is what is known of a program. One goroutine at most looks at it; what hangs
// there holds up none but those who wait for this program.
type program struct {
	path string
	args []string
	log  *slog.Logger

	mu sync.Mutex
	// below: guarded by mu
	file     identity
	features Features
	err      error
	// looking is closed when the look that is under way has ended; nil if none is. again
	// is set by one who wants another.
	looking chan struct{}
	again   bool
}

// identity tells whether a file is the one that was looked at.
type identity struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

func newProgram(path string, args []string, log *slog.Logger) *program {
	return &program{path: path, args: args, log: log, err: errLooking}
}

// look has the program looked at in the background, if its file has changed or it is to be
// done in any case.
func (p *program) look(anew bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if anew {
		p.file = identity{}
	}
	if p.looking != nil {
		p.again = p.again || anew
		return
	}
	p.looking = make(chan struct{})
	go p.run()
}

func (p *program) run() {
	for {
		p.mu.Lock()
		known := p.file
		p.mu.Unlock()
		file, err := identify(p.path)
		var features Features
		same := err == nil && file == known
		if err == nil && !same {
			ctx, cancel := context.WithTimeout(context.Background(), lookTime)
			features, err = readFeatures(ctx, p.path, p.args)
			cancel()
		}
		p.mu.Lock()
		if !same {
			p.learned(file, features, err)
		}
		if !p.again {
			close(p.looking)
			p.looking = nil
			p.mu.Unlock()
			return
		}
		p.again = false
		p.mu.Unlock()
	}
}

// learned takes over the outcome of a look; mu is held.
func (p *program) learned(file identity, features Features, err error) {
	if err != nil && (p.err == nil || err.Error() != p.err.Error()) {
		p.log.Warn("runtime cannot be used", "path", p.path, "error", err)
	}
	p.features, p.err, p.file = features, err, file
	if err != nil {
		// The next look tries again.
		p.file = identity{}
		return
	}
	p.log.Info("runtime", "path", p.path, "version", features.Version, "ociVersion", features.OCIVersion)
}

// last returns what is known.
func (p *program) last() (Features, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.features, p.err
}

// await returns what is known when the look that is under way has ended.
func (p *program) await(ctx context.Context) (Features, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTime+lookTime/2)
	defer cancel()
	p.mu.Lock()
	looking := p.looking
	p.mu.Unlock()
	if looking != nil {
		select {
		case <-looking:
		case <-ctx.Done():
			return Features{}, fmt.Errorf("%s does not answer: %w", p.path, ctx.Err())
		}
	}
	return p.last()
}

func identify(path string) (identity, error) {
	info, err := os.Stat(path)
	if err != nil {
		return identity{}, fmt.Errorf("look at runtime: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return identity{}, fmt.Errorf("look at runtime: %s is not a program", path)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return identity{}, fmt.Errorf("look at runtime: %s has no inode", path)
	}
	return identity{
		dev: st.Dev, ino: st.Ino, size: st.Size,
		mtime: unix.Timespec(st.Mtim), ctime: unix.Timespec(st.Ctim),
	}, nil
}
