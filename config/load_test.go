package config

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const head = "apiVersion: berth.dev/v1alpha1\nkind: BerthConfiguration\n"

func TestLayers(t *testing.T) {
	dir := t.TempDir()
	main := write(t, dir, "berthd.yaml", head+`
state: /run/one
log: {level: warn}
network:
  confDirs: [/a, /b]
runtime:
  env: {A: "1", B: "2", C: "3"}
  rlimits:
    RLIMIT_CORE: {soft: 0, hard: 0}
`)
	first := write(t, dir, "berthd.yaml.d/10-first.yaml", head+`
log: {level: error, format: json}
network:
  confDirs: [/c]
  timeout: 90s
runtime:
  env: {B: "two", C: null, D: "4"}
`)
	second := write(t, dir, "berthd.yaml.d/20-second.yml", head+"log: {format: text}\nruntime:\n")
	write(t, dir, "berthd.yaml.d/30-nothing.yaml", "# only a comment\n")
	write(t, dir, "berthd.yaml.d/15-backup.yaml~", "nonsense")
	write(t, dir, "berthd.yaml.d/.16-swap.yaml", "nonsense")
	write(t, dir, "berthd.yaml.d/README", "nonsense")

	loaded := mustLoad(t, Source{File: main, Overrides: []Override{
		{"log.level", "debug", "--log-level"},
		{"streaming.port", "1234", "--port"},
		{"deadlines.shutdown", "3s", "--shutdown"},
	}})
	c := loaded.Config
	if c.Log.Level != "debug" || c.Log.Format != "text" {
		t.Errorf("log is %+v", c.Log)
	}
	if c.Address != "/run/one/berth.sock" {
		t.Errorf("address %q does not follow the state directory", c.Address)
	}
	if c.NRI.Socket != "/run/one/nri.sock" {
		t.Errorf("NRI socket %q is not one of this instance", c.NRI.Socket)
	}
	if !reflect.DeepEqual(c.Network.ConfDirs, []string{"/c"}) || c.Network.Timeout != 90*time.Second {
		t.Errorf("network is %+v", c.Network)
	}
	if want := map[string]string{"A": "1", "B": "two", "D": "4"}; !maps.Equal(c.Runtime.Env, want) {
		t.Errorf("env is %v, want %v", c.Runtime.Env, want)
	}
	if c.Runtime.Rlimits["RLIMIT_CORE"] != (Rlimit{0, 0}) {
		t.Errorf("rlimits are %v", c.Runtime.Rlimits)
	}
	if c.Streaming.Port != 1234 || c.Deadlines.Shutdown != 3*time.Second {
		t.Errorf("overrides gave port %d, shutdown %s", c.Streaming.Port, c.Deadlines.Shutdown)
	}
	for key, want := range map[string]string{
		"log.level":                   "--log-level",
		"log.format":                  second + ":3",
		"network.confDirs":            first + ":6",
		"runtime.env.B":               first + ":9",
		"runtime.rlimits.RLIMIT_CORE": main + ":11",
	} {
		if got := loaded.Origins[key].String(); got != want {
			t.Errorf("origin of %s is %s, want %s", key, got, want)
		}
	}
	wantFiles := []string{main, first, second, filepath.Join(dir, "berthd.yaml.d/30-nothing.yaml")}
	if !reflect.DeepEqual(loaded.Files, wantFiles) {
		t.Errorf("files are %v, want %v", loaded.Files, wantFiles)
	}
}

func TestDropInsWithoutMainFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "berthd.yaml.d/a.yaml", head+"root: /srv/berth\n")
	c := mustLoad(t, Source{File: filepath.Join(dir, "berthd.yaml"), Optional: true}).Config
	if c.Root != "/srv/berth" {
		t.Errorf("root is %q", c.Root)
	}
}

func TestAddressAsTheKubeletWritesIt(t *testing.T) {
	file := write(t, t.TempDir(), "c.yaml", head+"address: unix:///run/x.sock\n")
	if got := mustLoad(t, Source{File: file}).Config.Address; got != "/run/x.sock" {
		t.Errorf("address is %q", got)
	}
}

func TestMissingFile(t *testing.T) {
	_, err := Load(Source{File: filepath.Join(t.TempDir(), "no.yaml")})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no.yaml") {
		t.Errorf("error is %v", err)
	}
}

func TestFilesThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "file", "")
	big := write(t, dir, "big.yaml", strings.Repeat("# padding\n", maxFileSize/10+1))
	folder := write(t, dir, "folder.yaml", head)
	if err := os.MkdirAll(filepath.Join(dir, "folder.yaml.d", "x.yaml"), 0o755); err != nil {
		t.Fatal(err)
	}
	notFolder := write(t, dir, "c.yaml", head)
	write(t, dir, "c.yaml.d", "")
	for file, want := range map[string]string{
		filepath.Join(dir, "file", "c.yaml"): "not a directory",
		dir:                                  "is a directory",
		big:                                  "larger than",
		folder:                               "x.yaml: is a directory",
		notFolder:                            "c.yaml.d: not a directory",
	} {
		_, err := Load(Source{File: file, Optional: true})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v, want %q in it", file, err, want)
		}
	}
}

// Each mistake is named with its line and key.
func TestMistakesAreNamed(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"unknown key":              {head + "rot: /x\n", "F:3: rot: unknown key; did you mean root?"},
		"unknown nested key":       {head + "network:\n  confDir: []\n", "F:4: network.confDir: unknown key; did you mean confDirs?"},
		"wrong case":               {head + "log: {Level: info}\n", "F:3: log.Level: unknown key; did you mean level?"},
		"nothing like it":          {head + "log: {verbosity: 3}\n", "F:3: log.verbosity: unknown key; known here are level, format"},
		"unknown key in a map":     {head + "runtime:\n  rlimits:\n    RLIMIT_CORE: {softer: 1}\n", "F:5: runtime.rlimits.RLIMIT_CORE.softer: unknown key"},
		"duplicate key":            {head + "root: /a\nstate: /b\nroot: /c\n", "F:5: root: is there a second time, after line 3"},
		"duplicate nested key":     {head + "log:\n  level: info\n  level: warn\n", "F:5: log.level: is there a second time, after line 4"},
		"duplicate map entry":      {head + "runtime:\n  env:\n    A: x\n    A: y\n", "F:6: runtime.env.A: is there a second time, after line 5"},
		"merge key":                {head + "log: &l {level: info}\nmetrics: {<<: *l}\n", "F:4: metrics.<<: unknown key"},
		"key that is a list":       {head + "? [a]\n: b\n", "F:3: a key has to be a plain word, not a list"},
		"no apiVersion":            {"kind: BerthConfiguration\n", "F:1: apiVersion is missing; it has to be berth.dev/v1alpha1"},
		"other apiVersion":         {"apiVersion: berth.dev/v9\nkind: BerthConfiguration\n", `F:1: apiVersion: "berth.dev/v9" is not known`},
		"other kind":               {"apiVersion: berth.dev/v1alpha1\nkind: Pod\n", `F:2: kind: "Pod" is not known`},
		"syntax":                   {head + "log: [\nroot: /x\n", "F:3: did not find expected ',' or ']'"},
		"tab":                      {head + "log:\n\tlevel: info\n", "F:4: found character that cannot start any token"},
		"not UTF-8":                {head + "root: /\xff\n", "F:3: is not UTF-8"},
		"not a mapping":            {"hello\n", `F:1: has to be a mapping of keys to values, not "hello"`},
		"two documents":            {head + "---\n" + head, "F:3: a second document"},
		"list for a text":          {head + "root: [/x]\n", "F:3: root: has to be a text, not a list"},
		"number for a text":        {head + "root: 5\n", `F:3: root: has to be a text, not "5"; put it in quotes`},
		"bool for a text":          {head + "runtime:\n  env: {A: true}\n", `F:4: runtime.env.A: has to be a text, not "true"`},
		"text for a list":          {head + "network:\n  confDirs: /x\n", `F:4: network.confDirs: has to be a list, not "/x"`},
		"empty item":               {head + "network:\n  confDirs:\n  - /x\n  -\n", "F:6: network.confDirs[1]: is empty"},
		"text for a bool":          {head + "metrics: {pprof: yes}\n", `F:3: metrics.pprof: has to be true or false, not "yes"`},
		"text for a number":        {head + "streaming: {port: http}\n", `F:3: streaming.port: has to be a whole number, not "http"`},
		"fraction":                 {head + "streaming: {port: 1.5}\n", `F:3: streaming.port: has to be a whole number, not "1.5"`},
		"number too large":         {head + "runtime: {pidsLimit: 99999999999999999999}\n", "F:3: runtime.pidsLimit: has to be a whole number"},
		"time without unit":        {head + "network: {timeout: 10}\n", `F:3: network.timeout: has to be a time with its unit, as in 1m30s, not "10"`},
		"time that is none":        {head + "network: {timeout: soon}\n", `F:3: network.timeout: has to be a time with its unit, as in 1m30s, not "soon"`},
		"time that is a list":      {head + "network: {timeout: [1m]}\n", "F:3: network.timeout: has to be a time with its unit, as in 1m30s, not a list"},
		"scalar for a section":     {head + "log: debug\n", `F:3: log: has to be a mapping of keys to values, not "debug"`},
		"value that is not valid":  {head + "\nlog:\n  level: loud\n", `F:5: log.level: "loud" has to be one of debug, info, warn, error`},
		"item that is not valid":   {head + "network:\n  binDirs: [/x, y]\n", `F:4: network.binDirs[1]: "y" is not an absolute path`},
		"entry that is not valid":  {head + "runtime:\n  rlimits:\n    RLIMIT_FOO: {soft: 1, hard: 1}\n", `F:5: runtime.rlimits.RLIMIT_FOO: "RLIMIT_FOO" is not a resource limit`},
		"derived from what is not": {head + "state: run\n", `F:3: state: "run" is not an absolute path`},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, t.TempDir(), "berthd.yaml", test.text)
			_, err := Load(Source{File: file})
			if err == nil {
				t.Fatal("no error")
			}
			got := strings.ReplaceAll(err.Error(), file, "F")
			if !strings.HasPrefix(got, test.want) {
				t.Errorf("error is\n%s\nwant\n%s", got, test.want)
			}
		})
	}
}

func TestAllMistakesAreNamedAtOnce(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "c.yaml", head+"a: 1\nb: 2\nroot: 3\n")
	write(t, dir, "c.yaml.d/x.yaml", head+"c: 1\n")
	_, err := Load(Source{File: file, Overrides: []Override{{"streaming.port", "x", "--port"}, {"nope", "x", "--nope"}, {"log", "x", "--log"}}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"c.yaml:3: a:", "c.yaml:4: b:", "c.yaml:5: root:", "x.yaml:3: c:", "--port: streaming.port: has to be", `--nope: no such key: "nope"`, `--log: no such key: "log"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in\n%v", want, err)
		}
	}
}

// An anchor may be used again within a file.
func TestAlias(t *testing.T) {
	file := write(t, t.TempDir(), "c.yaml", head+"network:\n  confDirs: &d [/x]\n  binDirs: *d\n")
	c := mustLoad(t, Source{File: file}).Config
	if !reflect.DeepEqual(c.Network.BinDirs, []string{"/x"}) {
		t.Errorf("binDirs are %v", c.Network.BinDirs)
	}
}

// No text makes the loader panic, and what it takes without an error can be
// printed and loaded again as the same.
func FuzzLoad(f *testing.F) {
	f.Add(DefaultYAML())
	f.Add(head + "runtime: {env: {A: b}, rlimits: {RLIMIT_CORE: {soft: 1, hard: 2}}}\n")
	f.Add(head + "network: &a\n  confDirs: [*a]\n")
	f.Add("a: &a [*a]\n")
	f.Fuzz(func(t *testing.T, text string) {
		c := Default()
		if newLayering(&c).add("f", []byte(text)) != nil {
			return
		}
		var printed strings.Builder
		if err := Print(&printed, c, nil); err != nil {
			t.Fatal(err)
		}
		again := Default()
		if err := newLayering(&again).add("printed", []byte(printed.String())); err != nil {
			t.Fatalf("%v\n%s", err, printed.String())
		}
		if !reflect.DeepEqual(c, again) {
			t.Fatalf("%+v\nprinted as\n%s\nloads as\n%+v", c, printed.String(), again)
		}
	})
}
