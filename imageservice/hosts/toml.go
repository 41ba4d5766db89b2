package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// file is hosts.toml. What stands outside of the host tables is about the
// server.
type file struct {
	Server string `toml:"server"`
	hostTable
	Host map[string]hostTable `toml:"host"`
}

type hostTable struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	Header       map[string]any `toml:"header"`
	SkipVerify   *bool          `toml:"skip_verify"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

func parse(content []byte, dir, registry string) ([]Host, []string, error) {
	var f file
	warnings, err := decode(content, &f)
	if err != nil {
		return nil, nil, err
	}
	order, err := hostOrder(content)
	if err != nil {
		return nil, nil, err
	}
	var list []Host
	for _, name := range order {
		h, err := f.Host[name].host(name, dir)
		if err != nil {
			return nil, nil, fmt.Errorf("host %q: %w", name, err)
		}
		if f.Host[name].Capabilities == nil {
			h.Push = isRegistry(h.Addr, registry)
		}
		list = append(list, h)
	}
	server, err := f.server(dir, registry)
	if err != nil {
		return nil, nil, fmt.Errorf("server: %w", err)
	}
	list = append(list, server)
	for i := range list {
		list[i].Registry = isRegistry(list[i].Addr, registry)
	}
	return list, warnings, nil
}

// decode fails where a value has the wrong type, and warns of keys that are not
// known: files are shared with runtimes that know others.
func decode(content []byte, f *file) ([]string, error) {
	d := toml.NewDecoder(bytes.NewReader(content)).DisallowUnknownFields()
	err := d.Decode(f)
	var strict *toml.StrictMissingError
	var bad *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		var warnings []string
		for _, e := range strict.Errors {
			line, _ := e.Position()
			warnings = append(warnings, fmt.Sprintf("line %d: unknown key %q", line, strings.Join(e.Key(), ".")))
		}
		*f = file{}
		return warnings, toml.Unmarshal(content, f)
	case errors.As(err, &bad):
		line, column := bad.Position()
		return nil, fmt.Errorf("line %d, column %d, key %q: %w", line, column, strings.Join(bad.Key(), "."), err)
	}
	return nil, err
}

// hostOrder returns the hosts in the order of the file, which is the order to
// try them in and which a map does not keep.
func hostOrder(content []byte) ([]string, error) {
	var p unstable.Parser
	p.Reset(content)
	var order, table []string
	for p.NextExpression() {
		e := p.Expression()
		var key []string
		for it := e.Key(); it.Next(); {
			key = append(key, string(it.Node().Data))
		}
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = key
		case unstable.KeyValue:
			key = append(slices.Clone(table), key...)
		}
		if len(key) >= 2 && key[0] == "host" && !slices.Contains(order, key[1]) {
			order = append(order, key[1])
		}
	}
	return order, p.Error()
}

// server is the host to try when all others failed: the one that the file names,
// or the registry itself.
func (f *file) server(dir, registry string) (Host, error) {
	if f.Server != "" {
		h, err := f.host(f.Server, dir)
		if f.Capabilities == nil {
			h.Push = true
		}
		return h, err
	}
	h := upstream(registry)
	h.Path = apiPath("", f.OverridePath)
	return h, f.apply(&h, dir)
}

func (t hostTable) host(name, dir string) (Host, error) {
	h, err := parseURL(name, t.OverridePath)
	if err != nil {
		return h, err
	}
	return h, t.apply(&h, dir)
}

// apply overwrites what the table says of h.
func (t hostTable) apply(h *Host, dir string) error {
	var err error
	if t.Capabilities != nil {
		if err := h.setCapabilities(t.Capabilities); err != nil {
			return err
		}
	}
	if t.SkipVerify != nil {
		h.SkipVerify = *t.SkipVerify
	}
	if h.CAs, err = fileList("ca", t.CA, dir); err != nil {
		return err
	}
	if h.Clients, err = keyPairs(t.Client, dir); err != nil {
		return err
	}
	if h.Header, err = headers(t.Header); err != nil {
		return err
	}
	if t.DialTimeout != "" {
		if h.DialTimeout, err = time.ParseDuration(t.DialTimeout); err != nil {
			return fmt.Errorf("key \"dial_timeout\": %w", err)
		}
	}
	return nil
}

func (h *Host) setCapabilities(list []string) error {
	h.Resolve, h.Pull, h.Push = false, false, false
	for _, c := range list {
		switch strings.ToLower(c) {
		case "resolve":
			h.Resolve = true
		case "pull":
			h.Pull = true
		case "push":
			h.Push = true
		case "referrers":
		default:
			return fmt.Errorf("key \"capabilities\": unknown capability %q", c)
		}
	}
	return nil
}

// isRegistry tells whether addr is the registry itself.
func isRegistry(addr, registry string) bool {
	if registry == reference.DefaultDomain {
		return addr == "registry-1.docker.io" || addr == "index.docker.io" || addr == registry
	}
	return strings.EqualFold(addr, registry) ||
		strings.EqualFold(strings.TrimSuffix(addr, ":443"), strings.TrimSuffix(registry, ":443"))
}

func absolute(path, dir string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// fileList reads a string or an array of strings.
func fileList(key string, v any, dir string) ([]string, error) {
	list, err := stringList(key, v)
	for i := range list {
		list[i] = absolute(list[i], dir)
	}
	return list, err
}

func stringList(key string, v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		var list []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("key %q: %v is not a string", key, e)
			}
			list = append(list, s)
		}
		return list, nil
	}
	return nil, fmt.Errorf("key %q: %v is neither a string nor an array", key, v)
}

// keyPairs reads "file", ["file", …] and [["cert", "key"], …].
func keyPairs(v any, dir string) ([]KeyPair, error) {
	const key = "client"
	outer, ok := v.([]any)
	if !ok {
		if v == nil {
			return nil, nil
		}
		outer = []any{v}
	}
	var pairs []KeyPair
	for _, e := range outer {
		files, err := fileList(key, e, dir)
		if err != nil {
			return nil, err
		}
		switch len(files) {
		case 1:
			pairs = append(pairs, KeyPair{Cert: files[0]})
		case 2:
			pair := KeyPair{Cert: files[0]}
			if list, ok := e.([]any); ok && list[1] != "" {
				pair.Key = files[1]
			}
			pairs = append(pairs, pair)
		default:
			return nil, fmt.Errorf("key %q: want a certificate and a key", key)
		}
	}
	return pairs, nil
}

func headers(m map[string]any) (http.Header, error) {
	h := http.Header{}
	for name, v := range m {
		list, err := stringList("header."+name, v)
		if err != nil {
			return nil, err
		}
		for _, value := range list {
			h.Add(name, value)
		}
	}
	return h, nil
}
