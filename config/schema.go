package config

import (
	"reflect"
	"strings"
	"time"
)

// durationType is a leaf although its kind is int64.
var durationType = reflect.TypeFor[time.Duration]()

// key is one key of the configuration, a section or a leaf.
type key struct {
	path  string
	live  bool
	leaf  bool
	value reflect.Value
}

// keys lists every key of c in the order of the structs, sections before what
// is in them. The values are settable.
func keys(c *Config) []key {
	var all []key
	walk(reflect.ValueOf(c).Elem(), "", func(k key) { all = append(all, k) })
	return all
}

func walk(v reflect.Value, prefix string, visit func(key)) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		section := field.Type.Kind() == reflect.Struct
		k := key{
			path:  join(prefix, yamlName(field)),
			live:  field.Tag.Get("reload") == "live",
			leaf:  !section,
			value: v.Field(i),
		}
		visit(k)
		if section {
			walk(k.value, k.path, visit)
		}
	}
}

// yamlName is the key that a field has in a file.
func yamlName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}

// join appends name to the path of a section; the top level's is empty.
func join(section, name string) string {
	if section == "" {
		return name
	}
	return section + "." + name
}

// KeyInfo is one leaf of the configuration.
type KeyInfo struct {
	// Path is the key with its sections, as in "log.level".
	Path string
	// Live keys are taken over at a reload.
	Live bool
}

// Keys lists every leaf in the order in which it is printed.
func Keys() []KeyInfo {
	var infos []KeyInfo
	for _, k := range keys(&Config{}) {
		if k.leaf {
			infos = append(infos, KeyInfo{Path: k.path, Live: k.live})
		}
	}
	return infos
}
