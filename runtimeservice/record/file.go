package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
)

// version is that of the envelope and of what is in it. A change that an older
// daemon would misread gets the next number.
const version = 1

// errDamaged is wrapped by the errors of decode: the file is not one that was
// written whole by a version known here.
var errDamaged = errors.New("damaged record")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// envelope is the file: the checksum is that of the bytes of Data.
type envelope struct {
	Version  int             `json:"version"`
	Checksum string          `json:"crc32c"`
	Data     json.RawMessage `json:"data"`
}

func encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return json.Marshal(envelope{Version: version, Checksum: checksum(data), Data: data})
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
