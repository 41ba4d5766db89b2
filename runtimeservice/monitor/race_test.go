//go:build race

package monitor

// With the race detector on, the monitor has it too; it cannot be static then.
func init() {
	buildFlags = []string{"-race", "-tags", "seccomp"}
}
