package config

import (
	_ "embed"
	"fmt"
)

// defaultYAML is the one place where defaults and the keys' meanings are written.
//
//go:embed default.yaml
var defaultYAML []byte

// DefaultYAML is the default configuration as a file, each key with a comment.
func DefaultYAML() string { return string(defaultYAML) }

// Default is the configuration of a berthd that was told nothing. The socket's
// address is still open in it: Load derives it from the state directory.
func Default() Config {
	var c Config
	if err := newLayering(&c).add("default.yaml", defaultYAML); err != nil {
		// The text is part of the program; a test reads it.
		panic(fmt.Sprintf("config: %v", err))
	}
	return c
}
