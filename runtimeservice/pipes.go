package runtimeservice

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-cri/berth/runtimeservice/monitor"
)

// pipes are the three of a process without a terminal: the ends it gets, and
// ours.
type pipes struct {
	stdin, stdout, stderr *os.File
	in, out, err          *os.File
}

func openPipes(in, out, errOut bool) (p *pipes, err error) {
	p = &pipes{}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	for _, stream := range []struct {
		want         bool
		ours, theirs **os.File
		weWrite      bool
	}{
		{in, &p.in, &p.stdin, true},
		{out, &p.out, &p.stdout, false},
		{errOut, &p.err, &p.stderr, false},
	} {
		if !stream.want {
			continue
		}
		if *stream.ours, *stream.theirs, err = openPipe(stream.weWrite); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// openPipe is os.Pipe with only our end non-blocking: a process that finds its
// output full is to wait, not to fail with EAGAIN.
func openPipe(weWrite bool) (ours, theirs *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	our, their := fds[0], fds[1]
	if weWrite {
		our, their = their, our
	}
	theirs = os.NewFile(uintptr(their), "pipe")
	if err := unix.SetNonblock(our, true); err != nil {
		_ = unix.Close(our)
		return nil, nil, errors.Join(fmt.Errorf("make pipe: %w", err), theirs.Close())
	}
	return os.NewFile(uintptr(our), "pipe"), theirs, nil
}

// closeTheirs closes the ends that the process has got.
func (p *pipes) closeTheirs() { closeAll(p.stdin, p.stdout, p.stderr) }

func (p *pipes) closeOurs() { closeAll(p.in, p.out, p.err) }

func (p *pipes) close() {
	p.closeTheirs()
	p.closeOurs()
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			_ = f.Close()
		}
	}
}

// startPumps begins to copy what the process writes, and takes the outputs over.
func (p *pipes) startPumps(out, errOut io.Writer) []*pump {
	var pumps []*pump
	if p.out != nil {
		pumps = append(pumps, startPump(p.out, out))
	}
	if p.err != nil {
		pumps = append(pumps, startPump(p.err, errOut))
	}
	return pumps
}

// request asks the monitor to attach the process's ends to a container.
func (p *pipes) request(containerID string) monitor.AttachRequest {
	return monitor.AttachRequest{ContainerID: containerID, Stdin: p.stdin, Stdout: p.stdout, Stderr: p.stderr}
}
