// Package apparmor sees to it that the AppArmor profiles of containers are loaded
// into the kernel: its own default one is generated and loaded, others have to be
// there.
package apparmor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// DefaultProfile is the name of the profile that this package generates.
const DefaultProfile = "berth-default"

const (
	// loadedProfiles is the kernel's list, "name (mode)" on each line.
	loadedProfiles = "/sys/kernel/security/apparmor/profiles"
	// parser compiles a profile and loads it; nothing else can.
	parser = "/sbin/apparmor_parser"
	// parserTimeout bounds a compilation.
	parserTimeout = 30 * time.Second
)

// Profiles looks at the kernel's profiles. It is safe for concurrent use.
type Profiles struct {
	list, parser string

	loading sync.Mutex // one loads at a time
}

// New makes a Profiles of this kernel. It looks at nothing yet.
func New() *Profiles { return &Profiles{list: loadedProfiles, parser: parser} }

// Require fails unless the profile is loaded, with ErrNotFound. The default one is
// loaded if it is not: whoever unloads all profiles of the node does not keep
// containers from starting.
func (p *Profiles) Require(ctx context.Context, name string) error {
	loaded, err := p.loaded(name)
	if err != nil || loaded {
		return err
	}
	if name == DefaultProfile {
		return p.Load(ctx)
	}
	return fmt.Errorf("AppArmor profile %q is not loaded on this node: %w", name, errdefs.ErrNotFound)
}

// loaded tells whether the kernel has a profile of that name, in whatever mode.
func (p *Profiles) loaded(name string) (bool, error) {
	f, err := os.Open(p.list)
	if errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look for AppArmor profile %q: %w: %w", name, err, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return false, fmt.Errorf("look for AppArmor profile %q: %w", name, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if mode, found := strings.CutPrefix(lines.Text(), name+" ("); found && strings.HasSuffix(mode, ")") && !strings.Contains(mode, " (") {
			return true, nil
		}
	}
	if err := lines.Err(); err != nil {
		return false, fmt.Errorf("look for AppArmor profile %q: %w", name, err)
	}
	return false, nil
}

// Load loads the default profile, in place of one that is loaded: it may be an
// earlier version's. It is idempotent. Without the parser, or where the kernel
// takes no profile from this process, the error is ErrFailedPrecondition.
func (p *Profiles) Load(ctx context.Context) error {
	p.loading.Lock()
	defer p.loading.Unlock()
	ctx, cancel := context.WithTimeout(ctx, parserTimeout)
	defer cancel()
	// Without the cache: it would be written beside the distribution's.
	cmd := exec.CommandContext(ctx, p.parser, "--skip-cache", "--replace")
	cmd.Stdin = strings.NewReader(profileText(DefaultProfile))
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("load AppArmor profile %q with %s: %w: %s: %w", DefaultProfile, p.parser, err, bytes.TrimSpace(out), errdefs.ErrFailedPrecondition)
	}
	return nil
}
