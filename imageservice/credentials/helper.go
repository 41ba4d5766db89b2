package credentials

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

const (
	helperPrefix = "docker-credential-"
	// helperDeadline is how long a helper may take; some ask a cloud's API.
	helperDeadline = 30 * time.Second
	// helperGrace is how long its output is waited for after it was killed.
	helperGrace = time.Second
	// maxHelperOutput bounds what is kept of what it prints.
	maxHelperOutput = 64 << 10

	// tokenUser is what a helper calls the user of an identity token.
	tokenUser = "<token>"
	// notFound is how helpers say that they have nothing.
	notFound = "credentials not found"
)

// helperName keeps a name from being a path.
var helperName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// answer is what a helper prints.
type answer struct {
	Username string
	Secret   string
}

// ask runs a helper. It returns nil when the helper has nothing for the server.
func ask(ctx context.Context, name, server string) (*authn.AuthConfig, error) {
	if !helperName.MatchString(name) {
		return nil, fmt.Errorf("credential helper %q: not a name", name)
	}
	ctx, cancel := context.WithTimeout(ctx, helperDeadline)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	out := limited{full: func() { stop(errTooLong) }}
	cmd := exec.CommandContext(ctx, helperPrefix+name, "get")
	cmd.Stdin, cmd.Stdout = strings.NewReader(server), &out
	// With all that it has started, which may hold its output open.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = helperGrace
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("credential helper %s for %s: %w", name, server, context.Cause(ctx))
	case err != nil && bytes.Contains(out.b.Bytes(), []byte(notFound)):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("credential helper %s for %s: %w", name, server, err)
	}
	var a answer
	if json.Unmarshal(out.b.Bytes(), &a) != nil {
		return nil, fmt.Errorf("credential helper %s for %s: its answer is not a credential", name, server)
	}
	switch {
	case a.Secret == "":
		return nil, nil
	case a.Username == tokenUser:
		return &authn.AuthConfig{IdentityToken: a.Secret}, nil
	}
	return &authn.AuthConfig{Username: a.Username, Password: a.Secret}, nil
}

// limited keeps the beginning of what is written, and tells when there is more.
// It embeds nothing: a Buffer's ReadFrom would go around Write.
type limited struct {
	b    bytes.Buffer
	full func()
}

var errTooLong = errors.New("output is too long")

func (l *limited) Write(p []byte) (int, error) {
	if l.b.Len()+len(p) > maxHelperOutput {
		l.full()
		return 0, errTooLong
	}
	return l.b.Write(p)
}
