package failpoint

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]plan{
		"":                {},
		"a/b":             {name: "a/b", at: 1},
		"a/b=kill@3":      {name: "a/b", at: 3},
		"a=EIO@2+":        {name: "a", at: 2, after: true, err: unix.EIO},
		"*@120":           {name: "*", at: 120},
		"a=sleep:50ms@1+": {name: "a", at: 1, after: true, wait: 50 * time.Millisecond},
		"a/b=ENOSPC":      {name: "a/b", at: 1, err: unix.ENOSPC},
	} {
		if got, err := parse(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"=kill", "@2", "a@0", "a@x", "a=explode", "a=sleep:", "a=sleep:-1s"} {
		if got, err := parse(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
