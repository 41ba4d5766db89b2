package config

import (
	"strings"
	"testing"
	"time"
)

func TestPrintTellsOrigins(t *testing.T) {
	file := write(t, t.TempDir(), "c.yaml", head+"log:\n  level: warn\nnetwork:\n  confDirs: [/x]\nruntime:\n  env: {A: b}\n")
	loaded := mustLoad(t, Source{File: file, Overrides: []Override{{"root", "/r", "--root"}}})
	var b strings.Builder
	if err := Print(&b, loaded.Config, loaded.Origins); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\nroot: /r # --root\n",
		"\nstate: /run/berth\n",
		"\n  level: warn # " + file + ":4\n",
		"\n  confDirs: # " + file + ":6\n    - /x\n",
		"\n    A: b # " + file + ":8\n",
		"\n  timeout: 1m\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
}

func TestShortDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", time.Second: "1s", 10 * time.Second: "10s", time.Minute: "1m", 90 * time.Second: "1m30s",
		time.Hour: "1h", 4*time.Hour + 30*time.Minute: "4h30m", time.Hour + time.Second: "1h0m1s", 20 * time.Minute: "20m", 10 * time.Hour: "10h",
	} {
		if got := shortDuration(d); got != want {
			t.Errorf("%s is written as %s, want %s", d, got, want)
		}
		if back, err := time.ParseDuration(want); err != nil || back != d {
			t.Errorf("%s reads back as %s, %v", want, back, err)
		}
	}
}
