package cri

import (
	"io"
	"os"
	"testing"

	"k8s.io/klog/v2"
)

// The libraries of both sides log every broken connection to klog; these tests
// break thousands.
func TestMain(m *testing.M) {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	os.Exit(m.Run())
}
