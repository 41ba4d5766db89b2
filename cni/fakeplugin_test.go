package cni

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary be the plugins of its tests: a link to it in a plugin
// directory is run with CNI_COMMAND set.
func TestMain(m *testing.M) {
	if command := os.Getenv("CNI_COMMAND"); command != "" {
		os.Exit(fakePlugin(command))
	}
	// Under the race detector every plugin would sleep for a second before it ends.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	code := m.Run()
	for _, clean := range atExit {
		clean()
	}
	os.Exit(code)
}

// atExit runs after the last test.
var atExit []func()

// fake is the part of a plugin's configuration that tells the fake what to do. What it does
// for a command is under that command's name: "fail", "hang", "leave", "flood", "garbage",
// "slow" or nothing special.
type fake struct {
	// Dir is where calls are recorded and held attachments lie.
	Dir      string            `json:"dir"`
	Behave   map[string]string `json:"behave,omitempty"`
	IPs      []string          `json:"ips,omitempty"`
	NoResult bool              `json:"noResult,omitempty"`
}

// call is what a fake plugin records of itself.
type call struct {
	Plugin, Command, ContainerID, NetNS, IfName, Args, Path string
	Env                                                     []string
	Stdin                                                   map[string]any
	Pid                                                     int
}

func fakePlugin(command string) int {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return 3
	}
	var conf struct {
		CNIVersion  string           `json:"cniVersion"`
		Fake        fake             `json:"fake"`
		PrevResult  json.RawMessage  `json:"prevResult"`
		Attachments []map[string]any `json:"cni.dev/valid-attachments"`
	}
	c := call{
		Plugin: filepath.Base(os.Args[0]), Command: command, ContainerID: os.Getenv("CNI_CONTAINERID"), NetNS: os.Getenv("CNI_NETNS"),
		IfName: os.Getenv("CNI_IFNAME"), Args: os.Getenv("CNI_ARGS"), Path: os.Getenv("CNI_PATH"), Env: os.Environ(), Pid: os.Getpid(),
	}
	if json.Unmarshal(input, &conf) != nil || json.Unmarshal(input, &c.Stdin) != nil {
		return 3
	}
	data, _ := json.Marshal(c)
	log, err := os.OpenFile(filepath.Join(conf.Fake.Dir, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 3
	}
	_, _ = log.Write(append(data, '\n'))
	log.Close()
	held := filepath.Join(conf.Fake.Dir, c.Plugin+"."+c.ContainerID+"."+c.IfName)
	switch command {
	case "ADD":
		_ = os.WriteFile(held, nil, 0o600)
	case "GC":
		keep := make(map[string]bool)
		for _, a := range conf.Attachments {
			keep[fmt.Sprintf("%s.%v.%v", c.Plugin, a["containerID"], a["ifname"])] = true
		}
		all, _ := filepath.Glob(filepath.Join(conf.Fake.Dir, c.Plugin+".*"))
		for _, path := range all {
			if !keep[filepath.Base(path)] {
				_ = os.Remove(path)
			}
		}
	}
	if done, code := misbehave(conf.Fake, command); done {
		return code
	}
	switch {
	case command == "DEL":
		_ = os.Remove(held)
	case command == "ADD" && len(conf.PrevResult) > 0:
		os.Stdout.Write(conf.PrevResult)
	case command == "ADD":
		result := map[string]any{
			"cniVersion": conf.CNIVersion,
			"interfaces": []any{map[string]any{"name": "veth0"}, map[string]any{"name": c.IfName, "sandbox": c.NetNS}},
		}
		var ips []any
		for _, ip := range conf.Fake.IPs {
			ips = append(ips, map[string]any{"interface": 1, "address": ip})
		}
		ips = append(ips, map[string]any{"interface": 0, "address": "203.0.113.1/24"})
		result["ips"] = ips
		data, _ := json.Marshal(result)
		os.Stdout.Write(data)
	}
	return 0
}

func misbehave(conf fake, command string) (done bool, code int) {
	switch conf.Behave[command] {
	case "fail":
		fmt.Print(`{"cniVersion":"1.0.0","code":11,"msg":"no more addresses","details":"range 10.0.0.0/30"}`)
		return true, 1
	case "crash":
		fmt.Fprint(os.Stderr, "panic: not today")
		return true, 2
	case "hang":
		// Its child has its pipes, as an iptables that waits for a lock.
		child := exec.Command("sleep", "600")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		_ = child.Start()
		_ = os.WriteFile(filepath.Join(conf.Dir, "child"), fmt.Append(nil, child.Process.Pid), 0o600)
		time.Sleep(10 * time.Minute)
	case "leave":
		child := exec.Command("sleep", "600")
		child.Stdout = os.Stdout
		_ = child.Start()
		_ = os.WriteFile(filepath.Join(conf.Dir, "child"), fmt.Append(nil, child.Process.Pid), 0o600)
	case "flood":
		for {
			if _, err := os.Stdout.WriteString(strings.Repeat("x", 65536)); err != nil {
				return true, 1
			}
		}
	case "garbage":
		fmt.Print("<html>")
		return true, 0
	case "slow":
		time.Sleep(300 * time.Millisecond)
	}
	return false, 0
}

// host is a node of its own for a test: directories, fake plugins, a configuration.
type host struct {
	t                         *testing.T
	conf, bin, state, plugins string
	registry, peers           string
}

func newHost(t *testing.T, plugins ...string) *host {
	dir := t.TempDir()
	h := &host{
		t: t, conf: filepath.Join(dir, "net.d"), bin: filepath.Join(dir, "bin"), state: filepath.Join(dir, "state"),
		plugins: filepath.Join(dir, "plugins"), registry: filepath.Join(dir, "registry"), peers: filepath.Join(dir, "peers"),
	}
	for _, dir := range []string{h.conf, h.bin, h.plugins} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, plugin := range plugins {
		h.install(plugin)
	}
	return h
}

func (h *host) install(plugin string) {
	h.t.Helper()
	self, err := os.Executable()
	if err == nil {
		err = os.Symlink(self, filepath.Join(h.bin, plugin))
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) uninstall(plugin string) {
	h.t.Helper()
	if err := os.Remove(filepath.Join(h.bin, plugin)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) options() Options {
	return Options{
		ConfDirs: []string{h.conf}, BinDirs: []string{h.bin}, StateDir: h.state,
		RegistryDir: h.registry, PeerCacheDir: h.peers, Timeout: 20 * time.Second,
	}
}

func (h *host) networks() *Networks { return New(h.options()) }

// plugin is an entry of a chain.
type plugin map[string]any

func (h *host) fake(kind string, conf fake) plugin {
	conf.Dir = h.plugins
	return plugin{"type": kind, "fake": conf}
}

func (h *host) main(behave map[string]string) plugin {
	return h.fake("fake-main", fake{IPs: []string{"10.1.2.3/24", "fd00::3/64"}, Behave: behave})
}

func (h *host) write(file, name, cniVersion string, plugins ...plugin) {
	h.t.Helper()
	data, err := json.Marshal(map[string]any{"name": name, "cniVersion": cniVersion, "plugins": plugins})
	if err != nil {
		h.t.Fatal(err)
	}
	h.writeRaw(file, string(data))
}

func (h *host) writeRaw(file, content string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.conf, file), []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) calls() (calls []call) {
	h.t.Helper()
	data, err := os.ReadFile(filepath.Join(h.plugins, "calls"))
	if err != nil && !os.IsNotExist(err) {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var c call
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			h.t.Fatal(err)
		}
		calls = append(calls, c)
	}
	return calls
}

// steps are the calls as "plugin COMMAND".
func (h *host) steps() (steps []string) {
	for _, c := range h.calls() {
		steps = append(steps, c.Plugin+" "+c.Command)
	}
	return steps
}

// held are the attachments that plugins have something for.
func (h *host) held() []string {
	h.t.Helper()
	held, err := filepath.Glob(filepath.Join(h.plugins, "*.*.*"))
	if err != nil {
		h.t.Fatal(err)
	}
	for i := range held {
		held[i] = filepath.Base(held[i])
	}
	return held
}

func (h *host) debts() []string {
	h.t.Helper()
	debts, err := filepath.Glob(filepath.Join(h.state, "debts", "*"))
	if err != nil {
		h.t.Fatal(err)
	}
	for i := range debts {
		debts[i] = filepath.Base(debts[i])
	}
	return debts
}

// clean sees to it that nothing is left anywhere.
func (h *host) clean() {
	h.t.Helper()
	if held, debts := h.held(), h.debts(); held != nil || debts != nil {
		h.t.Errorf("left: %v, debts %v", held, debts)
	}
	if cached, _ := filepath.Glob(filepath.Join(h.state, "cache", "results", "*")); cached != nil {
		h.t.Errorf("left in the cache: %v", cached)
	}
}

// eventually waits for what a goroutine is about to do.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 2000 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("still not: %s", what)
}
