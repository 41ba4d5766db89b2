package noderegistry

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
)

// access knows the clients by their tokens. The file has a line for each, name:token;
// empty lines and those that begin with # count for nothing.
type access struct {
	file string // empty: everybody who gets here is a client
	log  *slog.Logger

	mu    sync.Mutex
	stamp string
	// tokens are hashes: to look one up takes no more time the nearer a guess is.
	tokens map[[sha256.Size]byte]bool
	pairs  map[[sha256.Size]byte]bool // of name and token
}

func newAccess(file string, log *slog.Logger) (*access, error) {
	a := &access{file: file, log: log}
	if file == "" {
		return a, nil
	}
	if err := a.read(); err != nil {
		return nil, err
	}
	return a, nil
}

// minToken is what a token has to have; a shorter one can be guessed.
const minToken = 16

func (a *access) read() error {
	content, err := os.ReadFile(a.file)
	if err != nil {
		return fmt.Errorf("read tokens: %w", err)
	}
	tokens, pairs := map[[sha256.Size]byte]bool{}, map[[sha256.Size]byte]bool{}
	lines := bufio.NewScanner(bytes.NewReader(content))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, token, ok := strings.Cut(line, ":")
		if !ok || name == "" || len(token) < minToken {
			return fmt.Errorf("read tokens: %s, line %d: is not name:token with a token of at least %d characters", a.file, n, minToken)
		}
		tokens[sha256.Sum256([]byte(token))] = true
		pairs[sha256.Sum256([]byte(line))] = true
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read tokens: %s: %w", a.file, err)
	}
	a.tokens, a.pairs, a.stamp = tokens, pairs, fileStamp(a.file)
	return nil
}

// refresh reads the file again if it has changed. One with a mistake lets nobody in
// who was not in before, and takes nothing away.
func (a *access) refresh() {
	now := fileStamp(a.file)
	if now == a.stamp {
		return
	}
	if err := a.read(); err != nil {
		a.log.Error("the tokens before stay in force", "error", err)
	}
	a.stamp = now
}

// admits tells whether the request has a token, as bearer token or as password.
func (a *access) admits(r *http.Request) bool {
	if a.file == "" {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refresh()
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return a.tokens[sha256.Sum256([]byte(strings.TrimSpace(token)))]
	}
	name, token, ok := r.BasicAuth()
	return ok && a.pairs[sha256.Sum256([]byte(name+":"+token))]
}

// fileStamp tells one state of files from another.
func fileStamp(files ...string) string {
	var b strings.Builder
	for _, file := range files {
		if file == "" {
			continue
		}
		info, err := os.Stat(file)
		if err != nil {
			fmt.Fprintf(&b, "%s: %v\n", file, err)
			continue
		}
		fmt.Fprintf(&b, "%s: %d %d\n", file, info.Size(), info.ModTime().UnixNano())
	}
	return b.String()
}
