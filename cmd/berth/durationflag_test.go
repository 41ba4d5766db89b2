package main

import (
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func TestDurationsMayBeSeconds(t *testing.T) {
	for text, wanted := range map[string]time.Duration{"": 10 * time.Second, "5": 5 * time.Second, "0": 0, "1m30s": 90 * time.Second, "250ms": 250 * time.Millisecond} {
		var d time.Duration
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		durationVarP(flags, &d, "time", "t", 10*time.Second, "how long")
		var args []string
		if text != "" {
			args = []string{"-t", text}
		}
		if err := flags.Parse(args); err != nil || d != wanted {
			t.Errorf("%q is %v, %v, want %v", text, d, err, wanted)
		}
	}
	var d time.Duration
	for _, text := range []string{"soon", "", "5 s", "99999999999"} {
		if err := (durationFlag{&d}).Set(text); err == nil {
			t.Errorf("%q is %v", text, d)
		}
	}
}
