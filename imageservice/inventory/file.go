package inventory

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/berth-cri/berth/imageservice/tree"
)

// magic begins the file and names its format.
const magic = "berth-inventory-1\n"

// maxString bounds what is read as one name, link target or attribute.
const maxString = 1 << 20

// ErrDamaged marks an inventory that cannot be read.
var ErrDamaged = errors.New("the inventory is damaged")

// Write writes the inventory of the tree at root to the file at path, and returns the
// file's digest with what the tree takes. untimed and flush are as for Walk. The file itself
// is not synced; on an error the file stays for the caller to remove.
func Write(ctx context.Context, path, root string, untimed []string, flush *tree.Flusher) (digest.Digest, Usage, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", Usage{}, err
	}
	d, usage, err := write(ctx, f, root, untimed, flush)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", Usage{}, fmt.Errorf("write the inventory of %s: %w", root, err)
	}
	return d, usage, nil
}

func write(ctx context.Context, f io.Writer, root string, untimed []string, flush *tree.Flusher) (digest.Digest, Usage, error) {
	digester := digest.SHA256.Digester()
	enc := encoder{w: bufio.NewWriterSize(io.MultiWriter(f, digester.Hash()), 64<<10)}
	if _, err := enc.w.WriteString(magic); err != nil {
		return "", Usage{}, err
	}
	usage, err := Walk(ctx, root, untimed, flush, func(e Entry) error {
		enc.entry(&e)
		return enc.err
	})
	if err == nil {
		err = enc.w.Flush()
	}
	return digester.Digest(), usage, err
}

// encoder writes entries one after the other; of a name only what differs from the
// one before.
type encoder struct {
	w    *bufio.Writer
	last string
	buf  [binary.MaxVarintLen64]byte
	err  error
}

func (e *encoder) number(n uint64) {
	if e.err == nil {
		_, e.err = e.w.Write(e.buf[:binary.PutUvarint(e.buf[:], n)])
	}
}

func (e *encoder) text(s string) {
	e.number(uint64(len(s)))
	if e.err == nil {
		_, e.err = e.w.WriteString(s)
	}
}

func (e *encoder) entry(x *Entry) {
	same := 0
	for same < len(e.last) && same < len(x.Path) && e.last[same] == x.Path[same] {
		same++
	}
	e.last = x.Path
	e.number(uint64(same))
	e.text(x.Path[same:])
	for _, n := range []uint64{uint64(x.Mode), uint64(x.UID), uint64(x.GID), uint64(x.Size), uint64(x.Sec), uint64(x.Nsec), x.Rdev} {
		e.number(n)
	}
	e.text(x.Link)
	e.text(x.Hard)
	e.number(uint64(len(x.Xattrs)))
	for _, a := range x.Xattrs {
		e.text(a.Name)
		e.text(a.Value)
	}
	if e.err == nil {
		binary.LittleEndian.PutUint64(e.buf[:8], x.Sum)
		_, e.err = e.w.Write(e.buf[:8])
	}
}

// decoder reads what encoder wrote.
type decoder struct {
	r    *bufio.Reader
	last string
	err  error
}

func (d *decoder) number() uint64 {
	if d.err != nil {
		return 0
	}
	var n uint64
	n, d.err = binary.ReadUvarint(d.r)
	return n
}

func (d *decoder) text() string {
	n := d.number()
	if d.err != nil || n == 0 {
		return ""
	}
	if n > maxString {
		d.err = errors.New("a string is too long")
		return ""
	}
	b := make([]byte, n)
	_, d.err = io.ReadFull(d.r, b)
	return string(b)
}

// next returns io.EOF at the end.
func (d *decoder) next() (Entry, error) {
	if _, err := d.r.Peek(1); err != nil {
		return Entry{}, err
	}
	var e Entry
	same := d.number()
	if same > uint64(len(d.last)) {
		return e, ErrDamaged
	}
	e.Path = d.last[:same] + d.text()
	d.last = e.Path
	e.Mode, e.UID, e.GID = uint32(d.number()), uint32(d.number()), uint32(d.number())
	e.Size, e.Sec, e.Nsec, e.Rdev = int64(d.number()), int64(d.number()), uint32(d.number()), d.number()
	e.Link, e.Hard = d.text(), d.text()
	for range min(d.number(), maxString) {
		if d.err != nil {
			break
		}
		e.Xattrs = append(e.Xattrs, Xattr{Name: d.text(), Value: d.text()})
	}
	var sum [8]byte
	if d.err == nil {
		_, d.err = io.ReadFull(d.r, sum[:])
	}
	e.Sum = binary.LittleEndian.Uint64(sum[:])
	if d.err != nil {
		return e, fmt.Errorf("%w: %w", ErrDamaged, d.err)
	}
	return e, nil
}
