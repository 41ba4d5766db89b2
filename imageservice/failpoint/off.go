//go:build !failpoint

package failpoint

// Enabled tells whether the program has failpoints.
const Enabled = false

// Hit is a step that can fail.
func Hit(string) error { return nil }

// Pass is a step that cannot fail, only be the last one.
func Pass(string) {}
