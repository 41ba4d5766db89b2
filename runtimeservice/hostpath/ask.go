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

	"github.com/berth-cri/berth/operation"
)

// Commands are the arguments that have a program call Run.
const (
	Command     = "resolve-path"
	ReadCommand = "read-path"
)

// ask has a process resolve the path.
func (r *Resolver) ask(ctx context.Context, name string) (Path, error) {
	found, err := r.run(ctx, Command, name)
	if err != nil {
		return Path{}, err
	}
	id, plain, _ := strings.Cut(found, " ")
	mount, err := strconv.ParseUint(id, 10, 64)
	return Path{Name: plain, Mount: mount}, err
}

// run has a process carry out the command, and returns what it found.
func (r *Resolver) run(ctx context.Context, command, name string) (string, error) {
	select {
	case r.waiting <- struct{}{}:
	default:
		return "", fmt.Errorf("%s %q: %d paths are waited for already: %w", command, name, maxLost, ErrNoAnswer)
	}
	defer operation.Wait(ctx, func() string { return "the file system of " + name })()
	ctx, cancel := context.WithTimeoutCause(ctx, r.patience, ErrNoAnswer)
	defer cancel()
	answer, process, err := r.start(command, name)
	if err != nil {
		<-r.waiting
		return "", fmt.Errorf("%s %q in a process: %w", command, name, err)
	}
	defer answer.Close()
	stop := context.AfterFunc(ctx, func() { answer.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	text, err := io.ReadAll(answer)
	if ctx.Err() != nil {
		_ = process.Kill() // it ends when its file system answers or is taken away, or has ended
		return "", fmt.Errorf("%s %q: %w", command, name, context.Cause(ctx))
	}
	if err != nil {
		return "", fmt.Errorf("%s %q in a process: %w", command, name, err)
	}
	found, err := parse(string(text))
	return found, pathError(name, err)
}

// start starts the process and returns where it answers. When it ends, which may be long
// after nobody waits for it any more, it makes room for another.
func (r *Resolver) start(command, name string) (*os.File, *os.Process, error) {
	answer, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer write.Close()
	cmd := exec.Command(r.program, command, name)
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
func Run(command, name string, w io.Writer) error {
	found, err := carryOut(command, name)
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		found = fmt.Sprintf("error %d", int(errno))
	case err != nil:
		found = "failure " + err.Error()
	}
	_, err = io.WriteString(w, found)
	return err
}

func carryOut(command, name string) (string, error) {
	if command == ReadCommand {
		content, err := read(name)
		return "found " + string(content), err
	}
	p, err := look(name)
	return fmt.Sprintf("found %d %s", p.Mount, p.Name), err
}

// parse reads what Run wrote.
func parse(text string) (string, error) {
	kind, rest, _ := strings.Cut(text, " ")
	switch kind {
	case "error":
		errno, err := strconv.Atoi(rest)
		if err != nil {
			return "", err
		}
		return "", syscall.Errno(errno)
	case "failure":
		return "", errors.New(rest)
	case "found":
		return rest, nil
	}
	return "", fmt.Errorf("it ended with the answer %q", text)
}
