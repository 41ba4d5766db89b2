package crilog

import (
	"fmt"
	"io"
	"time"
)

// Printer writes the entries of a log as the container wrote them: what went to
// its standard output to Out, the rest to Err.
type Printer struct {
	Out, Err   io.Writer
	Timestamps bool      // the time of its first part before each line
	Since      time.Time // leaves out what is older
	Until      time.Time // leaves out what is newer; zero is no limit

	inside map[string]bool // streams whose line has begun
}

// Print writes e. A line that is not in the CRI format is written to Out as it
// is, so that a person sees it.
func (p *Printer) Print(line []byte) error {
	e, err := Parse(line)
	if err != nil {
		_, err := p.Out.Write(line)
		return err
	}
	if e.Time.Before(p.Since) || !p.Until.IsZero() && e.Time.After(p.Until) {
		return nil
	}
	out := p.Out
	if e.Stream == Stderr {
		out = p.Err
	}
	if p.Timestamps && !p.inside[e.Stream] {
		if _, err := fmt.Fprint(out, e.Time.Format(time.RFC3339Nano), " "); err != nil {
			return err
		}
	}
	if p.inside == nil {
		p.inside = map[string]bool{}
	}
	p.inside[e.Stream] = e.Partial
	content := e.Content
	if !e.Partial {
		// The content's own buffer has room for the line feed that was cut
		// off, and one write keeps lines whole on a shared terminal.
		content = append(content[:len(content):len(content)], '\n')
	}
	_, err = out.Write(content)
	return err
}
