package config

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Print writes c as a file that Load reads back as the same configuration.
// Origins, if given, become comments behind the values that they tell of.
func Print(w io.Writer, c Config, origins map[string]Origin) error {
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(encode(reflect.ValueOf(c), "", origins)); err != nil {
		return fmt.Errorf("print configuration: %w", err)
	}
	return enc.Close()
}

// encode is the inverse of decoder.value.
func encode(v reflect.Value, path string, origins map[string]Origin) *yaml.Node {
	n := &yaml.Node{}
	switch {
	case v.Kind() == reflect.Struct:
		n.Kind = yaml.MappingNode
		for i := range v.NumField() {
			name := yamlName(v.Type().Field(i))
			addPair(n, name, encode(v.Field(i), join(path, name), origins))
		}
		return n // its leaves have comments of their own
	case v.Kind() == reflect.Map:
		n.Kind = yaml.MappingNode
		for _, name := range slices.SortedFunc(slices.Values(v.MapKeys()), byText) {
			addPair(n, name.String(), encode(v.MapIndex(name), join(path, name.String()), origins))
		}
		if v.Len() == 0 {
			n.Style = yaml.FlowStyle
		}
		return n
	case v.Kind() == reflect.Slice:
		n.Kind = yaml.SequenceNode
		for i := range v.Len() {
			n.Content = append(n.Content, encode(v.Index(i), fmt.Sprintf("%s[%d]", path, i), origins))
		}
		if v.Len() == 0 {
			n.Style = yaml.FlowStyle
		}
	case v.Type() == durationType:
		n.SetString(shortDuration(time.Duration(v.Int())))
	case v.Kind() == reflect.String:
		n.SetString(v.String())
	default:
		n.Kind, n.Value = yaml.ScalarNode, fmt.Sprint(v.Interface())
	}
	if o, ok := origins[path]; ok && !strings.HasSuffix(path, "]") { // a list has one origin
		n.LineComment = "# " + o.String()
	}
	return n
}

func byText(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) }

func addPair(mapping *yaml.Node, name string, value *yaml.Node) {
	key := &yaml.Node{}
	key.SetString(name)
	if value.Kind == yaml.SequenceNode {
		// Behind a block list's last item the comment would seem to be the item's.
		key.LineComment, value.LineComment = value.LineComment, ""
	}
	mapping.Content = append(mapping.Content, key, value)
}

// shortDuration writes 1m for what time.Duration calls 1m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
