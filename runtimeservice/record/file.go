package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

// version is that of the frame and of what is in it. A change that an older
// daemon would misread gets the next number.
const version = 1

// errDamaged is wrapped by the errors of decode: the line is not one that was
// written whole by a version known here.
var errDamaged = errors.New("damaged record")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A line is a JSON object, for people and their tools. Its frame is always
// written the same, so that reading one needs no parser before the checksum of
// the data is known to be right.
const (
	frameBegin = `{"version":%d,"crc32c":"%08x","data":`
	frameEnd   = "}\n"
	frameSize  = len(`{"version":1,"crc32c":"00000000","data":`)
)

// encode makes a line, with its end.
func encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	line := make([]byte, 0, frameSize+len(data)+len(frameEnd))
	line = fmt.Appendf(line, frameBegin, version, crc32.Checksum(data, castagnoli))
	line = append(line, data...)
	return append(line, frameEnd...), nil
}

// last reads the last whole line of a file into v. whole is how much of the file
// there is up to its end: less than all of it if lines after it are damaged.
func last(raw []byte, v any) (whole int, err error) {
	err = fmt.Errorf("%w: it has no line", errDamaged)
	for end := len(raw); end > 0; {
		begin := bytes.LastIndexByte(raw[:end-1], '\n') + 1
		if err = decode(raw[begin:end], v); err == nil {
			return end, nil
		}
		end = begin
	}
	return 0, err
}

// decode reads a line with its end.
func decode(line []byte, v any) error {
	if len(line) < frameSize+len(frameEnd) || string(line[len(line)-len(frameEnd):]) != frameEnd {
		return fmt.Errorf("%w: a line is cut off", errDamaged)
	}
	frame, data := line[:frameSize], line[frameSize:len(line)-len(frameEnd)]
	want := fmt.Appendf(nil, frameBegin, version, crc32.Checksum(data, castagnoli))
	if !bytes.Equal(frame, want) {
		return fmt.Errorf("%w: it begins with %q, want %q", errDamaged, frame, want)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%w: %v", errDamaged, err)
	}
	return nil
}
