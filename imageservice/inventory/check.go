package inventory

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
)

// maxDifferences bounds what Check keeps; the rest is counted.
const maxDifferences = 100

// Report is what Check found.
type Report struct {
	Usage       Usage
	Differences []Difference
	// More is the number of differences that are not listed.
	More int
}

// Same tells that the tree is what the inventory says.
func (r *Report) Same() bool { return len(r.Differences) == 0 }

func (r *Report) add(path, what string) {
	if len(r.Differences) == maxDifferences {
		r.More++
		return
	}
	r.Differences = append(r.Differences, Difference{Path: path, What: what})
}

// Check compares the tree at root with the inventory at path, whose digest is want.
// untimed are as for Walk. An error means that nothing can be said; it is ErrDamaged
// when the inventory is not the one that was written, os.ErrNotExist when there is
// none. What of the tree cannot be read is a difference. Files that running pods read stay
// in the page cache, others leave it as they are read.
func Check(ctx context.Context, path string, want digest.Digest, root string, untimed []string) (Report, error) {
	var report Report
	f, err := os.Open(path)
	if err != nil {
		return report, err
	}
	defer f.Close()
	if err := verify(f, want); err != nil {
		return report, err
	}
	d := &decoder{r: bufio.NewReaderSize(f, 64<<10)}
	begin := make([]byte, len(magic))
	if _, err := io.ReadFull(d.r, begin); err != nil || string(begin) != magic {
		return report, fmt.Errorf("%w: it is of another format", ErrDamaged)
	}
	m := &merger{d: d, report: &report}
	if err := m.advance(); err != nil {
		return report, err
	}
	w := newWalker(ctx, untimed, m.meet)
	w.restore = true
	report.Usage, err = w.walk(root)
	switch {
	case m.err != nil:
		return report, m.err
	case ctx.Err() != nil:
		return report, context.Cause(ctx)
	case err != nil:
		report.add(".", err.Error())
		return report, nil
	}
	return report, m.drain()
}

func verify(f *os.File, want digest.Digest) error {
	verifier := want.Verifier()
	if _, err := io.Copy(verifier, f); err != nil {
		return err
	}
	if !verifier.Verified() {
		return fmt.Errorf("%w: its digest is not %s", ErrDamaged, want)
	}
	_, err := f.Seek(0, io.SeekStart)
	return err
}

// merger goes through both lists side by side.
type merger struct {
	d      *decoder
	next   *Entry // nil at the end
	report *Report
	err    error
}

func (m *merger) advance() error {
	e, err := m.d.next()
	if errors.Is(err, io.EOF) && !errors.Is(err, ErrDamaged) {
		m.next = nil
		return nil
	}
	if err != nil {
		m.err = err
		return err
	}
	m.next = &e
	return nil
}

// meet takes an entry of the tree.
func (m *merger) meet(got Entry) error {
	for m.next != nil && less(m.next.Path, got.Path) {
		m.report.add(m.next.Path, "is missing")
		if err := m.advance(); err != nil {
			return err
		}
	}
	if m.next == nil || m.next.Path != got.Path {
		m.report.add(got.Path, "does not belong there")
		return nil
	}
	if what := compare(m.next, &got); what != "" {
		m.report.add(got.Path, what)
	}
	return m.advance()
}

func (m *merger) drain() error {
	for m.next != nil {
		m.report.add(m.next.Path, "is missing")
		if err := m.advance(); err != nil {
			return err
		}
	}
	return nil
}
