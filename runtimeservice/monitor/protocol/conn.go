package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Frame is one message. Whoever receives it owns FDs and has to close them.
type Frame struct {
	Kind   Kind
	Method Method
	ID     uint64
	Body   []byte
	FDs    []int
}

// Decode reads the body into v.
func (f *Frame) Decode(v any) error {
	if err := json.Unmarshal(f.Body, v); err != nil {
		return fmt.Errorf("decode body of frame: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// CloseFDs closes what came with the frame and was not taken.
func (f *Frame) CloseFDs() {
	for _, fd := range f.FDs {
		unix.Close(fd)
	}
	f.FDs = nil
}

// Conn sends and receives frames over a Unix stream socket. Receive is for one
// goroutine; Send may be called by many.
type Conn struct {
	socket *net.UnixConn

	// received descriptors whose frame is not complete yet, oldest first
	fds []int
	buf []byte

	sendMu sync.Mutex
}

// NewConn makes a Conn of a connected socket and owns it from then on.
func NewConn(socket *net.UnixConn) *Conn {
	return &Conn{socket: socket}
}

// Close ends the connection; a Receive that waits returns an error.
func (c *Conn) Close() error {
	return c.socket.Close()
}

// StopReceiving makes Receive return os.ErrDeadlineExceeded, at once and from
// now on. A frame of which a part has come is lost.
func (c *Conn) StopReceiving() error {
	return c.socket.SetReadDeadline(time.Unix(1, 0))
}

// Send writes a frame. The descriptors stay the caller's. An error means that
// the connection is of no more use.
func (c *Conn) Send(f Frame) error {
	if len(f.Body) > MaxBody {
		return fmt.Errorf("send frame: body of %d bytes is longer than %d: %w", len(f.Body), MaxBody, errdefs.ErrInvalidArgument)
	}
	if len(f.FDs) > MaxFDs {
		return fmt.Errorf("send frame: %d descriptors: %w", len(f.FDs), errdefs.ErrInvalidArgument)
	}
	msg := make([]byte, headerSize+len(f.Body))
	header{length: uint32(len(f.Body)), kind: f.Kind, method: f.Method, fds: uint8(len(f.FDs)), id: f.ID}.encode(msg)
	copy(msg[headerSize:], f.Body)
	var rights []byte
	if len(f.FDs) > 0 {
		rights = unix.UnixRights(f.FDs...)
	}
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	// The descriptors go with the first byte, so they are there when the
	// header is; the rest may take several writes.
	n, _, err := c.socket.WriteMsgUnix(msg, rights, nil)
	if err == nil && n < len(msg) {
		_, err = c.socket.Write(msg[n:])
	}
	if err != nil {
		// What the other side sent before it left can still be received.
		_ = c.socket.CloseWrite()
		return fmt.Errorf("send frame: %w", err)
	}
	return nil
}

// SendJSON is Send with v as the body.
func (c *Conn) SendJSON(f Frame, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode body of frame: %w", err)
	}
	f.Body = body
	return c.Send(f)
}

// Receive reads the next frame. It returns io.EOF when the other side closed
// the connection between two frames.
func (c *Conn) Receive() (*Frame, error) {
	var raw [headerSize]byte
	if err := c.readFull(raw[:]); err != nil {
		c.dropFDs()
		return nil, err
	}
	h, err := decodeHeader(raw[:])
	if err != nil {
		c.dropFDs()
		return nil, fmt.Errorf("receive frame: %w", err)
	}
	f := &Frame{Kind: h.kind, Method: h.method, ID: h.id}
	if h.length > 0 {
		f.Body = make([]byte, 0, min(int(h.length), 64<<10))
		if err := c.readBody(f, int(h.length)); err != nil {
			c.dropFDs()
			return nil, fmt.Errorf("receive frame: %w", err)
		}
	}
	if int(h.fds) > len(c.fds) {
		c.dropFDs()
		return nil, fmt.Errorf("receive frame: %w: %d descriptors announced, %d came", errHeader, h.fds, len(c.fds))
	}
	f.FDs = append([]int(nil), c.fds[:h.fds]...)
	c.fds = c.fds[h.fds:]
	return f, nil
}

// readBody grows the body as bytes come, so that a header alone cannot make us
// allocate MaxBody.
func (c *Conn) readBody(f *Frame, length int) error {
	for len(f.Body) < length {
		if len(f.Body) == cap(f.Body) {
			f.Body = append(f.Body, 0)[:len(f.Body)]
		}
		end := min(cap(f.Body), length)
		n, err := c.read(f.Body[len(f.Body):end])
		f.Body = f.Body[:len(f.Body)+n]
		if err != nil {
			return unexpected(err)
		}
	}
	return nil
}

func (c *Conn) readFull(b []byte) error {
	for got := 0; got < len(b); {
		n, err := c.read(b[got:])
		got += n
		if err != nil {
			if got > 0 {
				return fmt.Errorf("receive frame: %w", unexpected(err))
			}
			return err
		}
	}
	return nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// read is one recvmsg; descriptors that come along are queued.
func (c *Conn) read(b []byte) (int, error) {
	if c.buf == nil {
		c.buf = make([]byte, unix.CmsgSpace(MaxFDs*4))
	}
	n, oobn, flags, _, err := c.socket.ReadMsgUnix(b, c.buf)
	if errors.Is(err, io.EOF) {
		return 0, io.EOF
	}
	if err != nil {
		return 0, err
	}
	if err := c.queueFDs(c.buf[:oobn]); err != nil {
		return 0, err
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return 0, fmt.Errorf("%w: too many descriptors", errHeader)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (c *Conn) queueFDs(oob []byte) error {
	if len(oob) == 0 {
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("parse control message: %w", err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return fmt.Errorf("parse control message: %w", err)
		}
		c.fds = append(c.fds, fds...)
	}
	if len(c.fds) > 4*MaxFDs {
		return fmt.Errorf("%w: descriptors without a frame", errHeader)
	}
	return nil
}

func (c *Conn) dropFDs() {
	for _, fd := range c.fds {
		unix.Close(fd)
	}
	c.fds = nil
}

// CheckPeer returns an error unless the other side of the connection runs as
// the same user as we do.
func (c *Conn) CheckPeer() error {
	raw, err := c.socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("check peer: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return fmt.Errorf("check peer: %w", err)
	}
	if credErr != nil {
		return fmt.Errorf("check peer: %w", credErr)
	}
	if int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("check peer: user %d may not use the monitor: %w", cred.Uid, errdefs.ErrPermissionDenied)
	}
	return nil
}

// Dial connects to the monitor of a directory. The error wraps that of
// connect(2).
//
// It goes through /proc/self/fd, because the path of a socket is limited to 107
// bytes and that of a state directory is not.
func Dial(dir string) (*Conn, error) {
	d, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open directory of monitor %s: %w", dir, err)
	}
	defer unix.Close(d)
	socket, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: shortPath(d), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("connect to monitor in %s: %w", dir, err)
	}
	return NewConn(socket), nil
}

func shortPath(dirfd int) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(dirfd), SocketName)
}

// Listen makes the socket of a directory, mode 0600, in place of an old one.
// The caller holds the lock of the directory.
func Listen(dir string) (*net.UnixListener, error) {
	d, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open directory of monitor %s: %w", dir, err)
	}
	defer unix.Close(d)
	if err := unix.Unlinkat(d, SocketName, 0); err != nil && err != unix.ENOENT {
		return nil, fmt.Errorf("remove old socket in %s: %w", dir, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: shortPath(d), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", dir, err)
	}
	// The path is only good in here; the next monitor removes the file.
	l.SetUnlinkOnClose(false)
	if err := unix.Fchmodat(d, SocketName, 0o600, 0); err != nil {
		l.Close()
		return nil, fmt.Errorf("restrict socket in %s: %w", dir, err)
	}
	return l, nil
}
