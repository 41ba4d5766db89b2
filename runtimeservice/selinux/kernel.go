package selinux

import (
	"github.com/opencontainers/selinux/go-selinux"
	"github.com/opencontainers/selinux/go-selinux/label"
)

// Kernel is the System of this machine.
type Kernel struct{}

var _ System = Kernel{}

// Enabled asks the kernel. One without a policy gives every process the context
// "kernel".
func (Kernel) Enabled() bool { return selinux.GetEnabled() }

// Contexts reads the policy's lxc_contexts.
func (Kernel) Contexts() (process, file string) {
	process, file, err := label.InitLabels(nil)
	if err != nil {
		return "", ""
	}
	// The library holds the level that it has put into it; levels are given here.
	selinux.ReleaseLabel(process)
	return process, file
}

// Check asks the kernel.
func (Kernel) Check(context string) error { return selinux.SecurityCheckContext(context) }
