package monitor

import (
	"testing"
)

// The beginning of a line of a terminal is in the log as soon as no more comes, so
// that a kill does not lose it.
func TestPromptOutlivesTheMonitor(t *testing.T) {
	e := newEnv(t)
	r := e.start("printf 'prompt> '; read x; echo got $x", func(r *StartRequest) {
		r.Stdin, r.Spec.Process.Terminal = true, true
	})
	e.waitLog(r.LogPath, "prompt> ")
	e.killMonitor()
	in, _, _, _ := e.attach(r.ID, true)
	defer in.Close()
	if _, err := in.WriteString("word\n"); err != nil {
		t.Fatal(err)
	}
	e.waitLog(r.LogPath, "prompt> word\r\ngot word\r\n")
}
