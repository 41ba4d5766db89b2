//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Enabled tells whether the program has failpoints.
const Enabled = true

// points are the process's own: what they break is the process.
var points = sync.OnceValue(func() *state {
	plan, err := parse(os.Getenv(Env))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	s := &state{plan: plan, hits: map[string]int{}}
	if path := os.Getenv(HitsEnv); path != "" {
		if s.log, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
	}
	return s
})

// state is how far the process is.
type state struct {
	plan plan
	log  *os.File

	mu   sync.Mutex
	hits map[string]int
}

// Hit is a step that can fail. It returns the error that the environment asks for.
func Hit(name string) error {
	return points().hit(name)
}

// Pass is a step that cannot fail, only be the last one.
func Pass(name string) { _ = points().hit(name) }

func (s *state) hit(name string) error {
	if !s.due(name) {
		return nil
	}
	if s.log != nil {
		fmt.Fprintln(s.log, "hit")
	}
	if s.plan.wait > 0 {
		time.Sleep(s.plan.wait)
		return nil
	}
	if s.plan.err != nil {
		return fmt.Errorf("failpoint %s: %w", name, s.plan.err)
	}
	if err := unix.Kill(os.Getpid(), unix.SIGKILL); err != nil {
		panic(err)
	}
	select {} // no step further
}

// due counts the step and tells whether it is the one that was chosen.
func (s *state) due(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hits[name]++
	if s.hits[name] == 1 && s.log != nil {
		fmt.Fprintln(s.log, name)
	}
	n := s.hits[name]
	if s.plan.name == "*" {
		s.hits["*"]++
		n = s.hits["*"]
	} else if s.plan.name != name {
		return false
	}
	return n == s.plan.at || s.plan.after && n > s.plan.at
}
