// Package output writes what the commands show: tables for people, JSON and
// YAML for programs.
package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

// Format is how a command shows its result.
type Format string

// The formats of -o.
const (
	Table Format = "table"
	JSON  Format = "json"
	YAML  Format = "yaml"
)

// Formats lists all of them, for messages and completion.
func Formats() []string { return []string{string(Table), string(JSON), string(YAML)} }

// ParseFormat checks a value of -o.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case Table, JSON, YAML:
		return f, nil
	}
	return "", fmt.Errorf("unknown output format %q: use %s", s, strings.Join(Formats(), ", "))
}

// Proto renders a CRI message with the field names and enum values that crictl
// prints, so that scripts for one work with the other.
func Proto(m proto.Message) (json.RawMessage, error) {
	data, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("render %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	// protojson varies its white space on purpose; encoding/json settles it.
	var compact bytes.Buffer
	if err := json.Compact(&compact, data); err != nil {
		return nil, err
	}
	return compact.Bytes(), nil
}

// Data writes v as JSON or YAML. A proto.Message is rendered by Proto.
func Data(w io.Writer, f Format, v any) error {
	if m, ok := v.(proto.Message); ok {
		raw, err := Proto(m)
		if err != nil {
			return err
		}
		v = raw
	}
	data, err := marshalIndent(v)
	if err != nil {
		return fmt.Errorf("render as %s: %w", f, err)
	}
	if f == YAML {
		if data, err = yaml.JSONToYAML(data); err != nil {
			return fmt.Errorf("render as yaml: %w", err)
		}
	}
	_, err = w.Write(data)
	return err
}

func marshalIndent(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(v)
	return buf.Bytes(), err
}

// Line writes v as one line of JSON, for streams of results.
func Line(w io.Writer, v any) error {
	if m, ok := v.(proto.Message); ok {
		raw, err := Proto(m)
		if err != nil {
			return err
		}
		v = raw
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// Rows writes a table with aligned columns.
func Rows(w io.Writer, header []string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 8, 1, 3, ' ', 0)
	for _, row := range append([][]string{header}, rows...) {
		if _, err := fmt.Fprintln(tw, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// Pairs writes "name: value" lines with aligned values.
func Pairs(w io.Writer, pairs [][2]string) error {
	tw := tabwriter.NewWriter(w, 0, 1, 2, ' ', 0)
	for _, p := range pairs {
		if _, err := fmt.Fprintf(tw, "%s:\t%s\n", p[0], p[1]); err != nil {
			return err
		}
	}
	return tw.Flush()
}
