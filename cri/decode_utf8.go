package cri

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// findNotUTF8 returns the path of the first text in an encoded message of that kind that is
// not UTF-8, such as config.mounts[2].host_path, and "" if there is none: the decoder itself
// says only that there is one. A map is named as a whole.
func findNotUTF8(m protoreflect.MessageDescriptor, wire []byte, above string) string {
	seen := make(map[protowire.Number]int)
	for len(wire) > 0 {
		number, kind, n := protowire.ConsumeTag(wire)
		if n < 0 {
			return ""
		}
		wire = wire[n:]
		if n = protowire.ConsumeFieldValue(number, kind, wire); n < 0 {
			return ""
		}
		f := m.Fields().ByNumber(number)
		if kind == protowire.BytesType && f != nil {
			value, _ := protowire.ConsumeBytes(wire)
			if path := notUTF8(f, value, fieldAt(above, f, seen[number])); path != "" {
				return path
			}
		}
		seen[number]++
		wire = wire[n:]
	}
	return ""
}

// notUTF8 is findNotUTF8 for the value of a field at path.
func notUTF8(f protoreflect.FieldDescriptor, value []byte, path string) string {
	switch {
	case f.Kind() == protoreflect.StringKind && !utf8.Valid(value):
		return path
	case f.Kind() != protoreflect.MessageKind:
		return ""
	}
	found := findNotUTF8(f.Message(), value, path)
	if found != "" && f.IsMap() {
		return path
	}
	return found
}

// fieldAt is the path of the i-th value of a field.
func fieldAt(above string, f protoreflect.FieldDescriptor, i int) string {
	path := field(above, string(f.Name()))
	if f.IsList() {
		return item(path, i)
	}
	return path
}
