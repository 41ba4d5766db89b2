// Package crilog reads container logs in the CRI format: one line per write of
// the container, "TIME STREAM TAGS CONTENT", where the tag P marks a line that
// the next one continues and F the end of a line.
package crilog

import (
	"bytes"
	"fmt"
	"time"
)

// The streams of a container that a log line may come from.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// Entry is one line of the file. Content has no line feed; the container wrote
// one after it unless Partial is set.
type Entry struct {
	Time    time.Time
	Stream  string
	Partial bool
	Content []byte
}

// Parse reads one line of the file, with or without its line feed. Content
// aliases line.
func Parse(line []byte) (Entry, error) {
	line = bytes.TrimSuffix(line, []byte("\n"))
	stamp, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok {
		return Entry{}, fmt.Errorf("log line %q has no stream", excerpt(line))
	}
	when, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return Entry{}, fmt.Errorf("log line %q: %w", excerpt(line), err)
	}
	stream, rest, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return Entry{}, fmt.Errorf("log line %q has no tag", excerpt(line))
	}
	if s := string(stream); s != Stdout && s != Stderr {
		return Entry{}, fmt.Errorf("log line %q: unknown stream %q", excerpt(line), s)
	}
	// A line may end after its tag: an empty line of a container whose log
	// was trimmed by an editor.
	tags, content, _ := bytes.Cut(rest, []byte(" "))
	partial, err := parseTags(tags)
	if err != nil {
		return Entry{}, fmt.Errorf("log line %q: %w", excerpt(line), err)
	}
	return Entry{Time: when, Stream: string(stream), Partial: partial, Content: content}, nil
}

// parseTags reads the tags, separated by colons: the first is P or F, others
// are for later versions of the format.
func parseTags(tags []byte) (partial bool, err error) {
	first, _, _ := bytes.Cut(tags, []byte(":"))
	switch string(first) {
	case "P":
		return true, nil
	case "F":
		return false, nil
	}
	return false, fmt.Errorf("unknown tag %q", first)
}

func excerpt(line []byte) []byte {
	const enough = 80
	return line[:min(len(line), enough)]
}
