package hostpath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Command is the argument that has a program call Run.
const Command = "resolve-path"

// ask has a process resolve the path.
func (r *Resolver) ask(ctx context.Context, name string) (Path, error) {
	select {
	case r.waiting <- struct{}{}:
	default:
		return Path{}, fmt.Errorf("resolve %q: %d paths are waited for already: %w", name, maxLost, ErrNoAnswer)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.patience, ErrNoAnswer)
	defer cancel()
	answer, process, err := r.start(name)
	if err != nil {
		<-r.waiting
		return Path{}, fmt.Errorf("resolve %q in a process: %w", name, err)
	}
	defer answer.Close()
	stop := context.AfterFunc(ctx, func() { answer.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	text, err := io.ReadAll(answer)
	if ctx.Err() != nil {
		_ = process.Kill() // it ends when its file system answers or is taken away, or has ended
		return Path{}, fmt.Errorf("resolve %q: %w", name, context.Cause(ctx))
	}
	if err != nil {
		return Path{}, fmt.Errorf("resolve %q in a process: %w", name, err)
	}
	p, err := parse(string(text))
	return p, pathError(name, err)
}

// start starts the process and returns where it answers. When it ends, which may be long
// after nobody waits for it any more, it makes room for another.
func (r *Resolver) start(name string) (*os.File, *os.Process, error) {
	answer, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer write.Close()
	cmd := exec.Command(r.program, Command, name)
	cmd.Dir = "/"
	cmd.Stdout = write
	if err := cmd.Start(); err != nil {
		answer.Close()
		return nil, nil, err
	}
	go func() {
		_ = cmd.Wait() // what it found it has written
		<-r.waiting
	}()
	return answer, cmd.Process, nil
}

// Run is the process: it writes what it found of the path.
func Run(name string, w io.Writer) error {
	p, err := look(name)
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		_, err = fmt.Fprintf(w, "error %d", int(errno))
	case err != nil:
		_, err = fmt.Fprintf(w, "failure %v", err)
	default:
		_, err = fmt.Fprintf(w, "found %d %s", p.Mount, p.Name)
	}
	return err
}

// parse reads what Run wrote.
func parse(text string) (Path, error) {
	kind, rest, _ := strings.Cut(text, " ")
	switch kind {
	case "error":
		errno, err := strconv.Atoi(rest)
		if err != nil {
			return Path{}, err
		}
		return Path{}, syscall.Errno(errno)
	case "failure":
		return Path{}, errors.New(rest)
	case "found":
		id, name, _ := strings.Cut(rest, " ")
		mount, err := strconv.ParseUint(id, 10, 64)
		return Path{Name: name, Mount: mount}, err
	}
	return Path{}, fmt.Errorf("it ended with the answer %q", text)
}
