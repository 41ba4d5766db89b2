package spec

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/containerd/errdefs"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// commandLine gives the arguments of the first process. A command replaces the
// image's entry point and its command; arguments alone replace the image's
// command only.
func commandLine(c *runtimeapi.ContainerConfig, img *ocispec.ImageConfig) ([]string, error) {
	command, args := c.GetCommand(), c.GetArgs()
	if len(command) == 0 {
		command = img.Entrypoint
		if len(args) == 0 {
			args = img.Cmd
		}
	}
	argv := make([]string, 0, len(command)+len(args))
	argv = append(append(argv, command...), args...)
	if len(argv) == 0 {
		return nil, invalid("config.command", "no command: neither the request nor the image names one")
	}
	return argv, checkArgs("config.command", argv)
}

func checkArgs(field string, argv []string) error {
	if len(argv) == 0 || argv[0] == "" {
		return invalid(field, "the command is empty")
	}
	for i, a := range argv {
		if hasNUL(a) {
			return invalid(field, "argument %d holds a NUL character", i)
		}
	}
	return nil
}

// environment collects variables; a later one takes an earlier one's place.
type environment struct {
	vars  []string
	index map[string]int
}

func newEnvironment(size int) *environment {
	return &environment{vars: make([]string, 0, size), index: make(map[string]int, size)}
}

func (e *environment) set(name, assignment string) {
	if i, ok := e.index[name]; ok {
		e.vars[i] = assignment
		return
	}
	e.index[name] = len(e.vars)
	e.vars = append(e.vars, assignment)
}

func (e *environment) has(name string) bool {
	_, ok := e.index[name]
	return ok
}

// addList adds "NAME=value" strings. One without "=" is passed over: such a line
// of an image gives the variable no value.
func (e *environment) addList(field string, list []string) error {
	for i, v := range list {
		name, _, assigned := strings.Cut(v, "=")
		if name == "" || hasNUL(v) {
			return invalid(field+"["+strconv.Itoa(i)+"]", "%q is not NAME=value", v)
		}
		if assigned {
			e.set(name, v)
		}
	}
	return nil
}

// environ gives the first process's environment: the defaults (PATH, HOSTNAME,
// TERM with a terminal), the configuration's, the image's, the request's, and
// HOME from the image's /etc/passwd if none of them sets it.
func environ(in *Input, img *ocispec.ImageConfig, home string) ([]string, error) {
	envs := in.Container.GetEnvs()
	e := newEnvironment(len(in.Defaults.Env) + len(img.Env) + len(envs) + 4)
	e.set("PATH", defaultPath)
	hostname := in.Sandbox.GetHostname()
	if hostname == "" {
		var err error
		if hostname, err = os.Hostname(); err != nil {
			return nil, fmt.Errorf("read the host name: %w", err)
		}
	}
	if hasNUL(hostname) {
		return nil, invalid("sandbox_config.hostname", "holds a NUL character")
	}
	e.set("HOSTNAME", "HOSTNAME="+hostname)
	if in.Container.GetTty() {
		e.set("TERM", "TERM=xterm")
	}
	if err := e.addList("default environment", in.Defaults.Env); err != nil {
		return nil, err
	}
	if err := e.addList("image environment", img.Env); err != nil {
		return nil, err
	}
	for i, kv := range envs {
		key := kv.GetKey()
		if key == "" || strings.ContainsAny(key, "=\x00") {
			return nil, invalid("config.envs["+strconv.Itoa(i)+"].key", "%q is not a variable's name", key)
		}
		if bytes.IndexByte(kv.GetValue(), 0) >= 0 {
			return nil, invalid("config.envs["+strconv.Itoa(i)+"].value", "the value of %q holds a NUL character", key)
		}
		e.set(key, key+"="+string(kv.GetValue()))
	}
	if !e.has("HOME") {
		// libcontainer would look HOME up itself, in the container and without
		// the limits of readRootFile.
		e.set("HOME", "HOME="+home)
	}
	return e.vars, nil
}

// workingDir gives the first process's working directory: the request's, else
// the image's, else "/". One that does not exist is made by libcontainer, inside
// the container's root.
func workingDir(c *runtimeapi.ContainerConfig, img *ocispec.ImageConfig) (string, error) {
	field, dir := "config.working_dir", c.GetWorkingDir()
	if dir == "" {
		field, dir = "image working directory", img.WorkingDir
		if dir == "" {
			return "/", nil
		}
		// Dockerfiles may name it relative to the root.
		dir = "/" + dir
	}
	if hasNUL(dir) {
		return "", invalid(field, "holds a NUL character")
	}
	if !path.IsAbs(dir) {
		return "", invalid(field, "%q is not absolute", dir)
	}
	dir = path.Clean(dir)
	if leadsToProcess(dir) {
		return "", invalid(field, "%q leads to a process's open files", dir)
	}
	return dir, nil
}

// leadsToProcess reports whether a path goes through a process's directory in
// /proc: its fd, cwd and root entries can lead out of the container.
func leadsToProcess(p string) bool {
	if under(p, "/dev/fd") {
		return true
	}
	rest, ok := strings.CutPrefix(p, "/proc/")
	if !ok {
		return false
	}
	first, _, _ := strings.Cut(rest, "/")
	if first == "self" || first == "thread-self" {
		return true
	}
	_, err := strconv.ParseUint(first, 10, 64)
	return err == nil
}

// under reports whether the clean path p is dir or lies below it.
func under(p, dir string) bool {
	if dir == "/" {
		return true
	}
	rest, ok := strings.CutPrefix(p, dir)
	return ok && (rest == "" || rest[0] == '/')
}

// ExecProcess gives the process of an exec in a container that was started with
// base: same user, groups, environment, working directory, limits and
// capabilities, never more. base is not changed and shares its lists with the
// result, which is not to be changed either.
func ExecProcess(base *specs.Spec, cmd []string, tty bool) (*specs.Process, error) {
	if base == nil || base.Process == nil {
		return nil, fmt.Errorf("exec: the container has no process specification: %w", errdefs.ErrFailedPrecondition)
	}
	if err := checkArgs("cmd", cmd); err != nil {
		return nil, err
	}
	p := *base.Process
	p.Args = append([]string(nil), cmd...)
	p.CommandLine = ""
	p.Terminal = tty
	p.ConsoleSize = nil
	if tty && !hasVariable(p.Env, "TERM") {
		p.Env = append(p.Env[:len(p.Env):len(p.Env)], "TERM=xterm")
	}
	if base.Process.Capabilities != nil {
		caps := *base.Process.Capabilities
		// Inheritable ones could be gained through a file's capabilities; only
		// ambient ones need them.
		caps.Inheritable = caps.Ambient
		p.Capabilities = &caps
	}
	return &p, nil
}

func hasVariable(env []string, name string) bool {
	for _, v := range env {
		if n, _, ok := strings.Cut(v, "="); ok && n == name {
			return true
		}
	}
	return false
}
