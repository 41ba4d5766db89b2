package stats

import (
	"bytes"
	"strconv"
	"time"
)

// Pressure is what tasks had to wait for a resource: some of them, or all that
// were not idle (Documentation/accounting/psi.rst).
type Pressure struct{ Some, Full Stall }

// Stall is a time of waiting: in all, and the share of the last 10, 60 and 300
// seconds in percent.
type Stall struct {
	Total                time.Duration
	Avg10, Avg60, Avg300 float64
}

func (f *files) pressure(controller string, u *Usage) {
	for name, to := range map[string]**Pressure{
		"cpu.pressure": &u.CPUPressure, "memory.pressure": &u.MemoryPressure, "io.pressure": &u.IOPressure,
	} {
		if raw, ok := f.read(controller, name); ok {
			*to = parsePressure(raw)
		}
	}
}

// parsePressure is nil for what has no line that is known.
func parsePressure(raw []byte) *Pressure {
	var p Pressure
	known := false
	for line := range bytes.Lines(raw) {
		fields := bytes.Fields(line)
		if len(fields) == 0 {
			continue
		}
		to := &p.Some
		switch string(fields[0]) {
		case "full":
			to = &p.Full
		case "some":
		default:
			continue
		}
		known = true
		for _, field := range fields[1:] {
			to.set(field)
		}
	}
	if !known {
		return nil
	}
	return &p
}

func (s *Stall) set(field []byte) {
	key, value, _ := bytes.Cut(field, []byte{'='})
	average := func() float64 {
		n, _ := strconv.ParseFloat(string(value), 64)
		return n
	}
	switch string(key) {
	case "avg10":
		s.Avg10 = average()
	case "avg60":
		s.Avg60 = average()
	case "avg300":
		s.Avg300 = average()
	case "total":
		n, _ := number(value)
		s.Total = time.Duration(n) * time.Microsecond
	}
}
