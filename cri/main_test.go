package cri

import (
	"flag"
	"io"
	"os"
	"testing"

	"k8s.io/klog/v2"
)

// The libraries of both sides log every broken connection to klog; these tests
// break thousands.
func TestMain(m *testing.M) {
	flags := flag.NewFlagSet("klog", flag.PanicOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{"logtostderr": "false", "stderrthreshold": "FATAL"} {
		if err := flags.Set(name, value); err != nil {
			panic(err)
		}
	}
	klog.SetOutput(io.Discard)
	os.Exit(m.Run())
}
