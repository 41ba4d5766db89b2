package cni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"text/template"

	"github.com/containerd/errdefs"
)

// templatedConfig is the file that a template becomes, in the first of the
// configuration directories. The name sorts before what people usually write.
const templatedConfig = "10-berth.conflist"

// templateData is what a template can use. Operators have templates with these
// names already.
type templateData struct {
	// PodCIDR is the first of PodCIDRRanges.
	PodCIDR       string
	PodCIDRRanges []string
	// Routes are the default routes of the families that the pods have.
	Routes []string
}

// podCIDRs is the template and who uses it at the moment.
type podCIDRs struct {
	file string // of the template; empty for none

	mu sync.Mutex // one writer at a time
}

// SetPodCIDRs writes the network's configuration from the template, with these
// prefixes for the pods, and has it take effect. It is idempotent: a file that
// says so already is not touched. Without a template there is nothing to do.
// Pods that are attached keep what they have.
//
// Errors: ErrFailedPrecondition for a template that is missing or does not make
// a configuration; the file in force is left alone then.
func (n *Networks) SetPodCIDRs(_ context.Context, prefixes []netip.Prefix) error {
	if n.podCIDRs.file == "" || len(prefixes) == 0 {
		return nil
	}
	n.podCIDRs.mu.Lock()
	defer n.podCIDRs.mu.Unlock()
	config, err := renderTemplate(n.podCIDRs.file, prefixes)
	if err != nil {
		return fmt.Errorf("make the network's configuration for %v: %w: %w", prefixes, err, errdefs.ErrFailedPrecondition)
	}
	file := filepath.Join(n.confDirs[0], templatedConfig)
	written, err := replaceIfOther(file, config)
	if err != nil {
		return fmt.Errorf("write the network's configuration: %w", err)
	}
	if !written {
		return nil
	}
	n.logger.Info("network configuration written", "file", file, "podCIDRs", prefixes)
	if n.reload() {
		tell(n.hurry)
	}
	return nil
}

// renderTemplate returns a configuration that has been checked.
func renderTemplate(file string, prefixes []netip.Prefix) ([]byte, error) {
	text, err := readConfigFile(file)
	if err != nil {
		return nil, fmt.Errorf("read template: %w", err)
	}
	// A field that is misspelt is an error, not "<no value>".
	parsed, err := template.New(filepath.Base(file)).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("parse template %s: %w", file, err)
	}
	data := templateData{PodCIDR: prefixes[0].String()}
	for _, prefix := range prefixes {
		data.PodCIDRRanges = append(data.PodCIDRRanges, prefix.String())
		route := "::/0"
		if prefix.Addr().Is4() {
			route = "0.0.0.0/0"
		}
		data.Routes = append(data.Routes, route)
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, data); err != nil {
		return nil, fmt.Errorf("fill in template %s: %w", file, err)
	}
	list, err := parseList(out.Bytes())
	if err == nil {
		_, err = newNetwork(file, list)
	}
	if err != nil {
		return nil, fmt.Errorf("template %s makes no network: %w", file, err)
	}
	return out.Bytes(), nil
}

// replaceIfOther gives a file that content, all or nothing, unless it has it.
func replaceIfOther(file string, content []byte) (written bool, err error) {
	old, err := os.ReadFile(file)
	if err == nil && bytes.Equal(old, content) {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return false, err
	}
	// Hidden, so that no reader of the directory takes it for a configuration.
	temporary, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return false, err
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.Write(content)
	err = errors.Join(err, temporary.Chmod(0o644), temporary.Sync(), temporary.Close())
	if err != nil {
		return false, err
	}
	return true, os.Rename(temporary.Name(), file)
}
