package imageservice

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// instructions change an image's configuration, in the words of a Dockerfile.
var instructions = map[string]func(config *ocispec.ImageConfig, rest string) error{
	"CMD": func(c *ocispec.ImageConfig, rest string) error {
		c.Cmd = commandLine(rest)
		return nil
	},
	"ENTRYPOINT": func(c *ocispec.ImageConfig, rest string) error {
		c.Entrypoint = commandLine(rest)
		return nil
	},
	"ENV": func(c *ocispec.ImageConfig, rest string) error {
		return pairs(rest, func(key, value string) {
			c.Env = setEnv(c.Env, key, value)
		})
	},
	"LABEL": func(c *ocispec.ImageConfig, rest string) error {
		return pairs(rest, func(key, value string) {
			if c.Labels == nil {
				c.Labels = map[string]string{}
			}
			c.Labels[key] = value
		})
	},
	"WORKDIR": func(c *ocispec.ImageConfig, rest string) error {
		if !path.IsAbs(rest) {
			rest = path.Join("/", c.WorkingDir, rest)
		}
		c.WorkingDir = path.Clean(rest)
		return nil
	},
	"USER": func(c *ocispec.ImageConfig, rest string) error {
		c.User = rest
		return nil
	},
	"EXPOSE": func(c *ocispec.ImageConfig, rest string) error {
		return members(&c.ExposedPorts, rest, func(port string) string {
			if strings.Contains(port, "/") {
				return port
			}
			return port + "/tcp"
		})
	},
	"VOLUME": func(c *ocispec.ImageConfig, rest string) error {
		return members(&c.Volumes, rest, func(dir string) string { return dir })
	},
}

// applyInstructions changes a configuration. An ENTRYPOINT takes the CMD away that was for
// another one. What is no instruction is errdefs.ErrInvalidArgument.
func applyInstructions(config *ocispec.ImageConfig, lines []string) error {
	command := config.Cmd
	config.Cmd = nil
	entrypoint := false
	for _, line := range lines {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, rest := strings.ToUpper(word), strings.TrimSpace(rest)
		do := instructions[name]
		if do == nil {
			return fmt.Errorf("change %q: there are CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, VOLUME and WORKDIR: %w", line, errdefs.ErrInvalidArgument)
		}
		if rest == "" {
			return fmt.Errorf("change %q: %s of what is missing: %w", line, name, errdefs.ErrInvalidArgument)
		}
		if err := do(config, rest); err != nil {
			return fmt.Errorf("change %q: %w: %w", line, err, errdefs.ErrInvalidArgument)
		}
		entrypoint = entrypoint || name == "ENTRYPOINT"
	}
	if config.Cmd == nil && !entrypoint {
		config.Cmd = command
	}
	return nil
}

// commandLine is a list in JSON, or else a line for the shell.
func commandLine(text string) []string {
	if list, ok := jsonList(text); ok {
		return list
	}
	return []string{"/bin/sh", "-c", text}
}

// jsonList is never nil if ok.
func jsonList(text string) (list []string, ok bool) {
	list = []string{}
	return list, strings.HasPrefix(text, "[") && json.Unmarshal([]byte(text), &list) == nil
}

func setEnv(env []string, key, value string) []string {
	for i, old := range env {
		if k, _, _ := strings.Cut(old, "="); k == key {
			env[i] = key + "=" + value
			return env
		}
	}
	return append(env, key+"="+value)
}

// pairs reads KEY=VALUE, any number of them.
func pairs(text string, set func(key, value string)) error {
	list, err := words(text)
	if err != nil {
		return err
	}
	for _, word := range list {
		key, value, ok := strings.Cut(word, "=")
		if !ok || key == "" {
			return fmt.Errorf("%q is not like KEY=VALUE", word)
		}
		set(key, value)
	}
	return nil
}

// members adds words, or those of a list in JSON, to a set.
func members(set *map[string]struct{}, text string, form func(string) string) error {
	list, ok := jsonList(text)
	if !ok {
		var err error
		if list, err = words(text); err != nil {
			return err
		}
	}
	if *set == nil {
		*set = map[string]struct{}{}
	}
	for _, member := range list {
		(*set)[form(member)] = struct{}{}
	}
	return nil
}

// words splits a text at white space that is neither quoted nor behind a backslash.
func words(text string) ([]string, error) {
	var list []string
	var word strings.Builder
	var quote rune
	inWord, escaped := false, false
	for _, r := range text {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			inWord, escaped = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			inWord, quote = true, r
		case quote == 0 && (r == ' ' || r == '\t'):
			if inWord {
				list = append(list, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("a quote or backslash is left open")
	}
	if inWord {
		list = append(list, word.String())
	}
	return list, nil
}
