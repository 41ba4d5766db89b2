package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Origin is the place that gave a key its value: a file and a line, or a flag
// (then Line is 0).
type Origin struct {
	Name string
	Line int
}

func (o Origin) String() string {
	if o.Line == 0 {
		return o.Name
	}
	return o.Name + ":" + strconv.Itoa(o.Line)
}

// layering puts files and overrides one above the other into a Config.
type layering struct {
	config *Config
	// origins has every leaf that was set, and every entry of a map.
	origins map[string]Origin
}

func newLayering(c *Config) *layering {
	return &layering{config: c, origins: map[string]Origin{}}
}

// add lays one file over what is there. The error names every place that is
// wrong with file, line and key, one to a line; the Config is then half changed
// and of no use. A file of nothing but comments sets nothing.
func (l *layering) add(name string, text []byte) error {
	doc, err := parse(name, text)
	if err != nil || doc == nil {
		return err
	}
	d := &decoder{file: name, origins: l.origins}
	d.checkIdentity(doc)
	d.value(doc, reflect.ValueOf(l.config).Elem(), "")
	return errors.Join(d.errs...)
}

// set lays one value over what is there, as text that a file would have behind
// the key's colon if its type is not a string.
func (l *layering) set(o Override) error {
	for _, k := range keys(l.config) {
		if k.path != o.Key || !k.leaf {
			continue
		}
		node := &yaml.Node{Kind: yaml.ScalarNode, Value: o.Value}
		if k.value.Kind() == reflect.String || k.value.Type() == durationType {
			node.Tag = "!!str"
		}
		d := &decoder{file: o.Origin, origins: l.origins}
		d.value(node, k.value, k.path)
		return errors.Join(d.errs...)
	}
	return fmt.Errorf("%s: no such key: %q", o.Origin, o.Key)
}

// parse gives the root of the one document in text, nil if there is none.
func parse(name string, text []byte) (*yaml.Node, error) {
	if before, valid := validPrefix(text); !valid {
		return nil, fmt.Errorf("%s: is not UTF-8", Origin{name, 1 + bytes.Count(before, []byte("\n"))})
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, syntaxError(name, err)
	}
	var second yaml.Node
	switch err := dec.Decode(&second); {
	case err == nil:
		return nil, fmt.Errorf("%s:%d: a second document; one file holds one", name, second.Line)
	case !errors.Is(err, io.EOF):
		return nil, syntaxError(name, err)
	}
	if len(doc.Content) == 0 || isNull(doc.Content[0]) {
		return nil, nil
	}
	return doc.Content[0], nil
}

// validPrefix is what comes before the first byte that is not UTF-8.
func validPrefix(text []byte) (prefix []byte, whole bool) {
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && size == 1 {
			return text[:i], false
		}
		i += size
	}
	return text, true
}

var yamlLine = regexp.MustCompile(`^yaml: line (\d+): `)

// yamlParserError matches the errors for which the YAML library counts lines
// from 0: those of its parser, not of its scanner.
var yamlParserError = regexp.MustCompile(`^(did not find expected (<|','|'-'|key|node content)|found (undefined tag|duplicate %|incompatible))`)

// syntaxError brings the line number of the YAML library's message to where an
// editor looks for it.
func syntaxError(name string, err error) error {
	text := err.Error()
	m := yamlLine.FindStringSubmatch(text)
	if m == nil {
		return fmt.Errorf("%s: %s", name, strings.TrimPrefix(text, "yaml: "))
	}
	text = text[len(m[0]):]
	line, err := strconv.Atoi(m[1])
	if err == nil && yamlParserError.MatchString(text) {
		line++
	}
	return fmt.Errorf("%s: %s", Origin{name, line}, text)
}

// decoder sets Go values from YAML nodes and collects what is wrong with them.
// The YAML library's own decoding knows no key paths, lets duplicates in maps of
// structs pass by with the library's wording and takes 10 for ten nanoseconds.
type decoder struct {
	file    string
	origins map[string]Origin
	errs    []error
}

func (d *decoder) fail(n *yaml.Node, path, format string, args ...any) {
	where := Origin{d.file, n.Line}.String()
	if path != "" {
		where += ": " + path
	}
	d.errs = append(d.errs, fmt.Errorf("%s: %s", where, fmt.Sprintf(format, args...)))
}

// checkIdentity sees to it that the file says what it is, before a program of
// another age misunderstands it.
func (d *decoder) checkIdentity(doc *yaml.Node) {
	if doc.Kind != yaml.MappingNode {
		return // value reports it
	}
	for _, want := range [][2]string{{"apiVersion", APIVersion}, {"kind", Kind}} {
		n := lookup(doc, want[0])
		if n == nil {
			d.fail(doc, "", "%s is missing; it has to be %s", want[0], want[1])
		} else if n.Value != want[1] {
			d.fail(n, want[0], "%q is not known; it has to be %s", n.Value, want[1])
		}
	}
}

func lookup(mapping *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return mapping.Content[i+1]
		}
	}
	return nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// value sets v from n. Null sets nothing: it is what is left of a section whose
// keys were all commented out.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if isNull(n) {
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.section(n, v, path)
	case reflect.Map:
		d.entries(n, v, path)
	case reflect.Slice:
		d.list(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

// pairs calls visit for each key of a mapping, without those that are there a
// second time.
func (d *decoder) pairs(n *yaml.Node, path string, visit func(name, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "has to be a mapping of keys to values, not %s", describe(n))
		return
	}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if name.Kind != yaml.ScalarNode {
			d.fail(name, path, "a key has to be a plain word, not %s", describe(name))
			continue
		}
		if line, twice := first[name.Value]; twice {
			d.fail(name, join(path, name.Value), "is there a second time, after line %d", line)
			continue
		}
		first[name.Value] = name.Line
		visit(name, value)
	}
}

func (d *decoder) section(n *yaml.Node, v reflect.Value, path string) {
	var known []string
	for i := range v.NumField() {
		known = append(known, yamlName(v.Type().Field(i)))
	}
	d.pairs(n, path, func(name, value *yaml.Node) {
		i := slices.Index(known, name.Value)
		if i < 0 {
			d.fail(name, join(path, name.Value), "unknown key%s", suggest(name.Value, known))
			return
		}
		d.value(value, v.Field(i), join(path, name.Value))
	})
}

func (d *decoder) entries(n *yaml.Node, v reflect.Value, path string) {
	if v.IsNil() {
		v.Set(reflect.MakeMap(v.Type()))
	}
	d.pairs(n, path, func(name, value *yaml.Node) {
		entryPath, entryKey := join(path, name.Value), reflect.ValueOf(name.Value)
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		if isNull(value) {
			v.SetMapIndex(entryKey, reflect.Value{})
			delete(d.origins, entryPath)
			return
		}
		entry := reflect.New(v.Type().Elem()).Elem()
		d.value(value, entry, entryPath)
		v.SetMapIndex(entryKey, entry)
		d.origins[entryPath] = Origin{d.file, name.Line}
	})
	d.origins[path] = Origin{d.file, n.Line}
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, path, "has to be a list, not %s", describe(n))
		return
	}
	items := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		itemPath := fmt.Sprintf("%s[%d]", path, i)
		if isNull(item) {
			d.fail(item, itemPath, "is empty")
			continue
		}
		d.value(item, items.Index(i), itemPath)
	}
	v.Set(items)
	d.origins[path] = Origin{d.file, n.Line}
}

// scalar sets a single value. Its type in YAML has to be the one that the key
// wants: `on`, 0777 and 1.10 are then never taken for what they are not.
func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	d.origins[path] = Origin{d.file, n.Line}
	tag := n.ShortTag()
	switch {
	case v.Type() == durationType:
		t, err := time.ParseDuration(n.Value)
		if n.Kind != yaml.ScalarNode || tag != "!!str" || err != nil {
			d.fail(n, path, "has to be a time with its unit, as in 1m30s, not %s", describe(n))
			return
		}
		v.SetInt(int64(t))
	case v.Kind() == reflect.String:
		if n.Kind != yaml.ScalarNode || tag != "!!str" {
			d.fail(n, path, "has to be a text, not %s; put it in quotes", describe(n))
			return
		}
		v.SetString(n.Value)
	case v.Kind() == reflect.Bool:
		if tag != "!!bool" || n.Decode(v.Addr().Interface()) != nil {
			d.fail(n, path, "has to be true or false, not %s", describe(n))
		}
	default:
		if tag != "!!int" || n.Decode(v.Addr().Interface()) != nil {
			d.fail(n, path, "has to be a whole number, not %s", describe(n))
		}
	}
}

// describe says what a node is, for someone who has the file before him.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
		return strconv.Quote(n.Value)
	}
}
