package ociruntime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// Error is what a runtime says of a command that failed.
type Error struct {
	// Command is the program and its command.
	Command string
	// Text is the error of its log.
	Text string
}

func (e *Error) Error() string { return e.Command + ": " + e.Text }

// Is says that a container which is not there, or does not run, is not found.
func (e *Error) Is(target error) bool {
	return target == errdefs.ErrNotFound && containsAny(e.Text, "does not exist", "container not running", "process not running", "the container is not running")
}

// maxLog is how much is read of the end of what a runtime writes.
const maxLog = 64 << 10

// tail is the end of a file that others have written to.
func tail(f *os.File) string {
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	data, err := io.ReadAll(io.NewSectionReader(f, max(0, st.Size()-maxLog), maxLog))
	if err != nil {
		return ""
	}
	return string(data)
}

// lastError is the last error of a log in the format json, or its last line where it is in
// none.
func lastError(log *os.File) string {
	var last, plain string
	for line := range strings.Lines(tail(log)) {
		var entry struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
		}
		if json.Unmarshal([]byte(line), &entry) != nil {
			plain = strings.TrimSpace(line)
			continue
		}
		switch entry.Level {
		case "error", "fatal", "panic":
			last = entry.Msg
		}
	}
	if last == "" {
		return plain
	}
	return last
}

func lastLine(f *os.File) string {
	lines := strings.Split(strings.TrimSpace(tail(f)), "\n")
	return lines[len(lines)-1]
}

// commandError marks the error of a command that cannot be executed, or not in its working
// directory, and names it in the way of Berth's own runtime.
func commandError(err error, arg0, cwd string) error {
	var told *Error
	if !errors.As(err, &told) {
		return err
	}
	mark := func(subject string) error {
		return fmt.Errorf("%w: %s: %s: %w", protocol.ErrCommand, subject, told, errdefs.ErrInvalidArgument)
	}
	text := strings.ToLower(told.Text)
	names := func(what string) bool {
		what = strings.ToLower(what)
		return containsAny(text, `"`+what+`"`, "`"+what+"`", "'"+what+"'", `\"`+what+`\"`, " "+what+":")
	}
	if _, after, ok := strings.Cut(told.Text, "mkdir "); ok {
		if dir, _, _ := strings.Cut(after, ": "); strings.HasPrefix(cwd+"/", dir+"/") {
			return mark(fmt.Sprintf("make working directory %q", cwd))
		}
	}
	switch {
	case strings.HasPrefix(text, "open executable: "):
		// crun names no file.
		return mark(fmt.Sprintf("exec: %q", arg0))
	case containsAny(text, "chdir to cwd", "chdir to `"), names(cwd) && containsAny(text, "chdir", "cwd"):
		return mark(fmt.Sprintf("working directory %q", cwd))
	case (names(arg0) || names(path.Base(arg0))) && containsAny(text, "not found", "no such file", "permission denied", "is a directory", "exec format error", "not a directory", "cannot execute"):
		return mark(fmt.Sprintf("exec: %q", arg0))
	}
	return err
}

func containsAny(text string, parts ...string) bool {
	for _, part := range parts {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}
