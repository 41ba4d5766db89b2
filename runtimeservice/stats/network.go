package stats

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Interface is what a network interface has moved so far.
type Interface struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Columns of /proc/net/dev after the interface's name (proc_pid_net(5)).
const (
	rxBytesColumn   = 0
	rxPacketsColumn = 1
	rxErrorsColumn  = 2
	rxDroppedColumn = 3
	txBytesColumn   = 8
	txPacketsColumn = 9
	txErrorsColumn  = 10
	txDroppedColumn = 11
	columns         = 16
)

// ReadInterfaces reads a file with the format of /proc/net/dev. The loopback
// interface is not among the result.
func ReadInterfaces(path string) ([]Interface, error) {
	raw, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return parseInterfaces(raw)
}

func parseInterfaces(raw []byte) ([]Interface, error) {
	var all []Interface
	for line := range bytes.Lines(raw) {
		name, rest, ok := strings.Cut(string(line), ":")
		if !ok {
			continue // one of the two lines of headings
		}
		name = strings.TrimSpace(name)
		if name == "lo" {
			continue
		}
		fields := strings.Fields(rest)
		if len(fields) < columns {
			return nil, fmt.Errorf("interface %q has %d columns, want %d", name, len(fields), columns)
		}
		i := Interface{Name: name}
		for _, c := range []struct {
			column int
			to     *uint64
		}{
			{rxBytesColumn, &i.RxBytes}, {rxPacketsColumn, &i.RxPackets}, {rxErrorsColumn, &i.RxErrors}, {rxDroppedColumn, &i.RxDropped},
			{txBytesColumn, &i.TxBytes}, {txPacketsColumn, &i.TxPackets}, {txErrorsColumn, &i.TxErrors}, {txDroppedColumn, &i.TxDropped},
		} {
			n, err := strconv.ParseUint(fields[c.column], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("interface %q: %w", name, err)
			}
			*c.to = n
		}
		all = append(all, i)
	}
	return all, nil
}
