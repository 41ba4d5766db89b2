package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// handlerPattern is what Kubernetes takes for the handler of a RuntimeClass.
var handlerPattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func (k *checker) runtimes(c *Config) {
	if _, known := c.Runtimes[c.Runtime.DefaultHandler]; !known && c.Runtime.DefaultHandler != BuiltinHandler {
		k.fail("runtime.defaultHandler", "%q is neither %s nor in runtimes", c.Runtime.DefaultHandler, BuiltinHandler)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Runtimes)) {
		h := c.Runtimes[name]
		k.handler("runtimes."+name, name, &h)
	}
}

func (k *checker) handler(key, name string, h *Handler) {
	if !handlerPattern.MatchString(name) {
		k.fail(key, "%q is not a name of lower case letters, digits and '-', as a RuntimeClass wants it", name)
	}
	k.optionalPath(key+".path", h.Path)
	if name == BuiltinHandler && h.Path != "" {
		k.fail(key+".path", "%q: the handler of this name is the built-in one", h.Path)
	}
	if h.Path == "" && len(h.Args) > 0 {
		k.fail(key+".args", "%q are for a program, and path names none", h.Args)
	}
	for i, pattern := range h.Annotations {
		if strings.Contains(strings.TrimSuffix(pattern, "*"), "*") || pattern == "" {
			k.fail(fmt.Sprintf("%s.annotations[%d]", key, i), "%q is not the name of an annotation; * stands for anything, and only at the end", pattern)
		}
	}
	k.optionalPath(key+".seccompProfile", h.SeccompProfile)
	if h.Cgroup.MinMemory < 0 {
		k.fail(key+".cgroup.minMemory", "%d is negative", h.Cgroup.MinMemory)
	}
	for i, dir := range h.Network.ConfDirs {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
			k.fail(fmt.Sprintf("%s.network.confDirs[%d]", key, i), "%q is not a clean absolute path", dir)
		}
	}
}
