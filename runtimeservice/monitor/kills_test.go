package monitor

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// However often the monitor is killed, each line is in the log exactly once.
func TestKillsRepeatNothing(t *testing.T) {
	e := newEnv(t)
	const lines = 1_000_000
	script := fmt.Sprintf("seq 1 %d; seq 1 %d >&2; exit 5", lines, lines)
	var rotated []string
	r := e.start(script)
	for kills := 0; kills < 60; kills++ {
		e.mu.Lock()
		ended := len(e.exits[r.ID]) > 0
		e.mu.Unlock()
		if ended {
			break
		}
		if kills%7 == 3 {
			name := fmt.Sprintf("%s.%d", r.LogPath, kills)
			if err := os.Rename(r.LogPath, name); err != nil {
				t.Fatal(err)
			}
			rotated = append(rotated, name)
			if err := e.client.ReopenLog(e.ctx(), r.ID); err != nil {
				// It has ended: nothing more is written.
				break
			}
		}
		e.killMonitor()
		time.Sleep(time.Duration(kills%10) * 3 * time.Millisecond)
	}
	e.waitExit(r.ID)
	var text strings.Builder
	for _, path := range append(rotated, r.LogPath) {
		data, err := os.ReadFile(path)
		if err != nil && path != r.LogPath {
			t.Fatal(err)
		}
		text.Write(data)
	}
	for _, stream := range []string{"stdout", "stderr"} {
		next, pieces := 1, ""
		for line := range strings.Lines(text.String()) {
			parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
			if len(parts) != 4 {
				t.Fatalf("malformed entry %q", line)
			}
			if parts[1] != stream {
				continue
			}
			pieces += parts[3]
			if parts[2] == "P" {
				continue
			}
			if pieces != fmt.Sprint(next) {
				t.Fatalf("%s: line %d is %q", stream, next, pieces)
			}
			next, pieces = next+1, ""
		}
		if next != lines+1 {
			t.Errorf("%s has %d lines", stream, next-1)
		}
	}
}
