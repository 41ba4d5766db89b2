// Command berth is the operator's command line of the container runtime Berth.
// It speaks CRI over berthd's socket, and so works, but for the progress of
// pulls, with other runtimes too.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"k8s.io/klog/v2"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
)

// Exit codes of berth itself. run and exec end with the code of the process
// they ran, and use Docker's codes where there was none.
const (
	exitFailure     = 1
	exitInterrupted = 130
	exitRunFailed   = 125
	exitNotRunnable = 126
	exitNotFound    = 127
)

func main() {
	// The streaming libraries log to standard error, where a person expects
	// the container's.
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	os.Exit(execute(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// execute runs one command line and returns its exit code.
func execute(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	a := newApp(in, out, errOut)
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	a.close()
	return a.report(err)
}

// codeError carries the exit code a command wants; err may be nil when
// everything has been said.
type codeError struct {
	code int
	err  error
}

func (e *codeError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *codeError) Unwrap() error { return e.err }

func (a *app) report(err error) int {
	if err == nil {
		return 0
	}
	code := exitFailure
	var coded *codeError
	if errors.As(err, &coded) {
		code = coded.code
		if coded.err == nil {
			return code
		}
	}
	if interruptedOnly(err) {
		return exitInterrupted
	}
	fmt.Fprintf(a.stderr, "berth: %v\n", err)
	if hint := client.Hint(err); hint != "" {
		fmt.Fprintf(a.stderr, "hint: %s\n", hint)
	}
	return code
}

// interruptedOnly tells an interruption, of which the person knows, from one
// whose undoing failed.
func interruptedOnly(err error) bool {
	var joined interface{ Unwrap() []error }
	return errors.Is(err, errInterrupted) && !errors.As(err, &joined)
}
