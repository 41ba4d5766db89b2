package failpoint

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// plan is which point does what. The zero value does nothing, and one that neither
// waits nor fails kills.
type plan struct {
	name  string
	at    int  // the hit it is about, from 1
	after bool // and those after it
	err   error
	wait  time.Duration
}

// parse reads the value of Env; empty is a plan for nothing.
func parse(s string) (plan, error) {
	if s == "" {
		return plan{}, nil
	}
	p := plan{at: 1}
	rest, at, counted := strings.Cut(s, "@")
	var action string
	p.name, action, _ = strings.Cut(rest, "=")
	bad := func(what string) (plan, error) {
		return plan{}, fmt.Errorf("%s=%q: %s", Env, s, what)
	}
	if p.name == "" {
		return bad("no point is named")
	}
	if counted {
		at, p.after = strings.CutSuffix(at, "+")
		n, err := strconv.Atoi(at)
		if err != nil || n < 1 {
			return bad("no count follows the @")
		}
		p.at = n
	}
	wait, waits := strings.CutPrefix(action, "sleep:")
	switch {
	case waits:
		d, err := time.ParseDuration(wait)
		if err != nil || d <= 0 {
			return bad("no duration follows sleep")
		}
		p.wait = d
	case action != "" && action != "kill":
		errno, ok := errnos[action]
		if !ok {
			return bad("it is not known what it should do")
		}
		p.err = errno
	}
	return p, nil
}

// errnos are those of disks.
var errnos = map[string]error{"EIO": unix.EIO, "ENOSPC": unix.ENOSPC, "EDQUOT": unix.EDQUOT, "EROFS": unix.EROFS}
