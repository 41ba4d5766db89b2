package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

// version is that of the envelope and of what is in it. A change that an older
// daemon would misread gets the next number.
const version = 1

// errDamaged is wrapped by the errors of decode: the line is not one that was
// written whole by a version known here.
var errDamaged = errors.New("damaged record")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// envelope is a line: the checksum is that of the bytes of Data.
type envelope struct {
	Version  int             `json:"version"`
	Checksum string          `json:"crc32c"`
	Data     json.RawMessage `json:"data"`
}

// encode makes a line, with its end.
func encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	line, err := json.Marshal(envelope{Version: version, Checksum: checksum(data), Data: data})
	return append(line, '\n'), err
}

// last reads the last whole line of a file into v. whole is how much of the file
// there is up to its end: less than all of it if lines after it are damaged.
func last(raw []byte, v any) (whole int, err error) {
	err = fmt.Errorf("%w: it has no line", errDamaged)
	for end := len(raw); end > 0; {
		begin := bytes.LastIndexByte(raw[:end-1], '\n') + 1
		if raw[end-1] != '\n' {
			err = fmt.Errorf("%w: the last line has no end", errDamaged)
		} else if err = decode(raw[begin:end], v); err == nil {
			return end, nil
		}
		end = begin
	}
	return 0, err
}

func decode(raw []byte, v any) error {
	var e envelope
	if err := json.Unmarshal(raw, &e); err != nil {
		return fmt.Errorf("%w: %v", errDamaged, err)
	}
	if e.Version != version {
		return fmt.Errorf("%w: version %d, this program knows %d", errDamaged, e.Version, version)
	}
	if got := checksum(e.Data); got != e.Checksum {
		return fmt.Errorf("%w: checksum %s, want %s", errDamaged, got, e.Checksum)
	}
	if err := json.Unmarshal(e.Data, v); err != nil {
		return fmt.Errorf("%w: %v", errDamaged, err)
	}
	return nil
}

func checksum(data []byte) string {
	return fmt.Sprintf("%08x", crc32.Checksum(data, castagnoli))
}
