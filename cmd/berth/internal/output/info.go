package output

import (
	"encoding/json"
	"strings"
)

// Info turns the info map of a verbose CRI answer, whose values may be JSON in
// a string, into what it holds.
func Info(info map[string]string) map[string]any {
	if len(info) == 0 {
		return nil
	}
	out := make(map[string]any, len(info))
	for key, value := range info {
		out[key] = value
		dec := json.NewDecoder(strings.NewReader(value))
		dec.UseNumber()
		var parsed any
		if json.Valid([]byte(value)) && dec.Decode(&parsed) == nil {
			out[key] = parsed
		}
	}
	return out
}
