package output

import "encoding/json"

// Info turns the info map of a verbose CRI answer, whose values may be JSON in
// a string, into what it holds.
func Info(info map[string]string) map[string]any {
	if len(info) == 0 {
		return nil
	}
	out := make(map[string]any, len(info))
	for key, value := range info {
		out[key] = value
		if json.Valid([]byte(value)) {
			out[key] = json.RawMessage(value)
		}
	}
	return out
}
