package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/output"
	"github.com/berth-cri/berth/cmd/berth/internal/streams"
	"github.com/berth-cri/berth/cri/berthapi"
)

const spinnerInterval = 120 * time.Millisecond

// watchPull shows the progress of a pull until ctx ends, and returns what was shown
// last, if there was anything. A runtime that tells none gets a spinner.
func watchPull(ctx context.Context, c *client.Client, ref string, view pullView) (last *berthapi.Snapshot) {
	stream, err := c.Progress.PullProgress(ctx, ref)
	for err == nil {
		var s berthapi.Snapshot
		if s, err = stream.Recv(); err == nil {
			view.show(s)
			last = &s
		}
	}
	// Whatever ended the stream, the pull's own answer is what counts.
	view.idle(ctx)
	return last
}

// completed is a pull after its end.
func completed(s berthapi.Snapshot) berthapi.Snapshot {
	s.Layers = slices.Clone(s.Layers)
	for i := range s.Layers {
		if l := &s.Layers[i]; l.State != berthapi.LayerExists {
			l.State, l.Done = berthapi.LayerDone, l.Total
		}
	}
	return s
}

func (a *app) newPullView(ref string) pullView {
	if streams.IsTerminal(a.stderr) {
		return &terminalView{out: a.stderr, ref: ref}
	}
	return &lineView{out: a.stderr, ref: ref, states: map[string]berthapi.LayerState{}}
}

// pullView shows one pull.
type pullView interface {
	show(berthapi.Snapshot)
	// idle shows that something goes on, until ctx ends.
	idle(ctx context.Context)
}

// terminalView redraws one line for each layer.
type terminalView struct {
	out   io.Writer
	ref   string
	lines int
}

const (
	clearLine = "\r\x1b[K"
	lineUp    = "\x1b[1A"
	barWidth  = 30
)

func (v *terminalView) show(s berthapi.Snapshot) {
	var b strings.Builder
	b.WriteString(strings.Repeat(lineUp, v.lines))
	for _, l := range s.Layers {
		fmt.Fprintf(&b, "%s%s  %s\n", clearLine, client.Short(l.Digest), layerText(l))
	}
	v.lines = max(v.lines, len(s.Layers))
	io.WriteString(v.out, b.String())
}

func layerText(l berthapi.Layer) string {
	text := fmt.Sprintf("%-12s", l.State)
	moving := l.State == berthapi.LayerDownloading || l.State == berthapi.LayerUnpacking || l.State == berthapi.LayerUploading
	if !moving || l.Total <= 0 {
		return strings.TrimRight(text, " ")
	}
	filled := int(int64(barWidth) * min(l.Done, l.Total) / l.Total)
	bar := strings.Repeat("=", filled) + strings.Repeat(" ", barWidth-filled)
	text = fmt.Sprintf("%s [%s] %s/%s", text, bar, output.Size(uint64(l.Done)), output.Size(uint64(l.Total)))
	if l.Resumed > 0 {
		text += fmt.Sprintf(", %s of it from before", output.Size(uint64(l.Resumed)))
	}
	return text
}

func (v *terminalView) idle(ctx context.Context) {
	for i := 0; ; i++ {
		fmt.Fprintf(v.out, "%s%c pulling %s", clearLine, `|/-\`[i%4], v.ref)
		select {
		case <-ctx.Done():
			fmt.Fprint(v.out, clearLine)
			return
		case <-time.After(spinnerInterval):
		}
	}
}

// lineView prints a line whenever a layer has come a step further, for logs.
type lineView struct {
	out    io.Writer
	ref    string
	states map[string]berthapi.LayerState
}

func (v *lineView) show(s berthapi.Snapshot) {
	for _, l := range s.Layers {
		if v.states[l.Digest] == l.State {
			continue
		}
		v.states[l.Digest] = l.State
		if l.State == berthapi.LayerWaiting {
			continue
		}
		size := ""
		if l.Total > 0 {
			size = " " + output.Size(uint64(l.Total))
		}
		fmt.Fprintf(v.out, "%s: %s%s\n", client.Short(l.Digest), l.State, size)
	}
}

func (v *lineView) idle(ctx context.Context) {
	if len(v.states) == 0 && ctx.Err() == nil {
		fmt.Fprintf(v.out, "pulling %s\n", v.ref)
	}
	<-ctx.Done()
}
