package protocol

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// pair connects two Conns by a socket in a directory.
func pair(t testing.TB) (client, server *Conn) {
	t.Helper()
	// A path longer than a socket's may be.
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	st, err := os.Lstat(filepath.Join(dir, SocketName))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("socket: %v, %v", st, err)
	}
	client, err = Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	socket, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	server = NewConn(socket)
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func TestFrames(t *testing.T) {
	client, server := pair(t)
	if err := server.CheckPeer(); err != nil {
		t.Error(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	big := bytes.Repeat([]byte("x"), 3<<20)
	all := []int{int(w.Fd()), int(r.Fd())}
	go func() {
		for i := range 20 {
			fds := all[:i%3]
			body := [][]byte{nil, []byte("{}"), big}[i%3]
			if err := client.Send(Frame{Kind: FrameRequest, Method: MethodExec, ID: uint64(i), Body: body, FDs: fds}); err != nil {
				t.Error(err)
			}
		}
		client.Close()
	}()
	for i := range 20 {
		f, err := server.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if f.ID != uint64(i) || f.Method != MethodExec || len(f.FDs) != i%3 || i%3 == 2 && !bytes.Equal(f.Body, big) {
			t.Errorf("frame %d: ID %d, method %d, %d descriptors, %d bytes", i, f.ID, f.Method, len(f.FDs), len(f.Body))
		}
		for _, fd := range f.FDs {
			if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("descriptor %d: flags %x, %v", fd, flags, err)
			}
		}
		f.CloseFDs()
	}
	if _, err := server.Receive(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func TestSendTooMuch(t *testing.T) {
	client, _ := pair(t)
	if err := client.Send(Frame{Kind: FrameRequest, Body: make([]byte, MaxBody+1)}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
	if err := client.Send(Frame{Kind: FrameRequest, FDs: make([]int, MaxFDs+1)}); !errdefs.IsInvalidArgument(err) {
		t.Error(err)
	}
}

func TestDialNobody(t *testing.T) {
	dir := t.TempDir()
	if _, err := Dial(dir); !errors.Is(err, unix.ENOENT) {
		t.Error(err)
	}
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := Dial(dir); !errors.Is(err, unix.ECONNREFUSED) {
		t.Error(err)
	}
	if l, err = Listen(dir); err != nil {
		t.Fatalf("in place of an old socket: %v", err)
	}
	l.Close()
}

// receiveBytes is what Receive makes of raw bytes and descriptors.
func receiveBytes(t testing.TB, data []byte, fds int) (frames int, err error) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(pair[0]), "")
	c, err := net.FileConn(file)
	file.Close()
	if err != nil {
		t.Fatal(err)
	}
	conn := NewConn(c.(*net.UnixConn))
	defer conn.Close()
	go func() {
		defer unix.Close(pair[1])
		if fds > 0 && len(data) > 0 {
			rights := unix.UnixRights(make([]int, fds)...) // standard input, again and again
			if err := unix.Sendmsg(pair[1], data[:1], rights, nil, 0); err != nil {
				return
			}
			data = data[1:]
		}
		for len(data) > 0 {
			n, err := unix.Write(pair[1], data)
			if err != nil {
				return
			}
			data = data[n:]
		}
	}()
	for {
		f, err := conn.Receive()
		if err != nil {
			return frames, err
		}
		frames++
		f.CloseFDs()
	}
}

func openFDs(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestReceiveNonsense(t *testing.T) {
	frame := func(h header, body string) []byte {
		b := make([]byte, headerSize)
		h.encode(b)
		return append(b, body...)
	}
	// One round, so that what the runtime opens once is open.
	receiveBytes(t, frame(header{kind: FrameRequest}, ""), 1)
	before := openFDs(t)
	for name, c := range map[string]struct {
		data []byte
		fds  int
		want error
	}{
		"long body":       {frame(header{kind: FrameRequest, length: MaxBody + 1}, ""), 0, errHeader},
		"kind 0":          {frame(header{}, ""), 0, errHeader},
		"kind 99":         {frame(header{kind: 99}, ""), 0, errHeader},
		"too many":        {frame(header{kind: FrameRequest, fds: MaxFDs + 1}, ""), 0, errHeader},
		"none came":       {frame(header{kind: FrameRequest, fds: 1}, ""), 0, errHeader},
		"truncated":       {frame(header{kind: FrameRequest, length: 10}, "12345"), 2, io.ErrUnexpectedEOF},
		"half a header":   {frame(header{kind: FrameRequest}, "")[:7], 2, io.ErrUnexpectedEOF},
		"too many came":   {frame(header{kind: FrameRequest, fds: 1}, ""), MaxFDs + 5, errHeader},
		"nothing at all":  {nil, 0, io.EOF},
		"descriptors too": {frame(header{kind: FrameRequest}, ""), 3, io.EOF},
	} {
		if _, err := receiveBytes(t, c.data, c.fds); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	// The sender's side is closed by a goroutine of its own.
	after := openFDs(t)
	for range 6000 {
		if after <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
		after = openFDs(t)
	}
	t.Errorf("%d descriptors became %d", before, after)
}

func FuzzReceive(f *testing.F) {
	var b [headerSize]byte
	header{kind: FrameRequest, method: MethodStart, length: 2, id: 7}.encode(b[:])
	f.Add(append(b[:], "{}"...), uint8(0))
	f.Add([]byte("nonsense that is longer than a header"), uint8(3))
	f.Fuzz(func(t *testing.T, data []byte, fds uint8) {
		frames, err := receiveBytes(t, data, int(fds%20))
		if err == nil || frames > len(data)/headerSize {
			t.Errorf("%d frames of %d bytes, %v", frames, len(data), err)
		}
	})
}

func FuzzDecodeBodies(f *testing.F) {
	f.Add([]byte(`{"id":"a","spec":{}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		frame := Frame{Body: body}
		for _, v := range []any{&Hello{}, &Start{}, &Exec{}, &Attach{}, &Signal{}, &Update{}, &Adopt{}, &Error{}} {
			if err := frame.Decode(v); err != nil && !errdefs.IsInvalidArgument(err) {
				t.Error(err)
			}
		}
	})
}

func TestErrors(t *testing.T) {
	for _, want := range []error{
		errdefs.ErrNotFound, errdefs.ErrInvalidArgument, errdefs.ErrAlreadyExists, errdefs.ErrFailedPrecondition,
		errdefs.ErrUnavailable, errdefs.ErrPermissionDenied, errdefs.ErrNotImplemented, context.DeadlineExceeded,
		context.Canceled, ErrCommand,
	} {
		err := fmt.Errorf("step: %w", want)
		got := EncodeError(err).Err()
		if !errors.Is(got, want) || got.Error() != err.Error() {
			t.Errorf("%v became %v", err, got)
		}
	}
	if got := EncodeError(errors.New("other")).Err(); got.Error() != "other" {
		t.Error(got)
	}
}
