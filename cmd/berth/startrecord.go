package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/berth-cri/berth/cmd/berth/internal/output"
)

// startStep is a stage of a start as the runtime's verbose status has it.
type startStep struct {
	Stage        string    `json:"stage"`
	Container    string    `json:"container"`
	Image        string    `json:"image"`
	Began        time.Time `json:"began"`
	Milliseconds float64   `json:"milliseconds"`
	Error        string    `json:"error"`
	Attempts     int       `json:"attempts"`
}

// startRecord is how a pod or a container came up; empty of an image, and of
// another runtime.
func startRecord(one inspection) []startStep {
	data, err := json.Marshal(one["info"])
	if err != nil {
		return nil
	}
	var info struct {
		Info struct {
			Start []startStep `json:"start"`
		} `json:"info"`
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return nil // what another runtime tells has another form
	}
	return info.Info.Start
}

// printStart writes the table of a start; when each stage began is told from the
// first on.
func printStart(w io.Writer, steps []startStep) error {
	if len(steps) == 0 {
		return nil
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	var rows [][]string
	for _, s := range steps {
		about := strings.TrimSpace(s.Container + " " + s.Image)
		rows = append(rows, []string{s.Stage, about, "+" + milliseconds(s.Began.Sub(steps[0].Began)), fmt.Sprintf("%.1f ms", s.Milliseconds) + s.failure()})
	}
	return output.Rows(w, []string{"START", "OF", "AT", "TOOK"}, rows)
}

func milliseconds(d time.Duration) string {
	if d < 10*time.Second {
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return d.Round(time.Second).String()
}

// failure is what the table says of a stage that failed.
func (s startStep) failure() string {
	switch {
	case s.Error == "":
		return ""
	case s.Attempts > 1:
		return fmt.Sprintf(", failed %d times, at last: %s", s.Attempts, s.Error)
	}
	return ", failed: " + s.Error
}
