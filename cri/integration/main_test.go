package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// What all tests share; set by TestMain.
var (
	bin      string // directory of the programs
	registry *imagetest.Registry
	shared   *daemon

	systemdDriver bool // whether systemd makes the cgroups, as RuntimeConfig tells a kubelet
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the integration suite runs pods and needs root")
		return 1
	}
	silenceClients()
	sent := recordFields()
	cleanup, err := setUp()
	defer func() {
		if err := cleanup(); err != nil {
			fmt.Fprintln(os.Stderr, "clean up the integration suite:", err)
			code = 1
		}
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "set up the integration suite:", err)
		return 1
	}
	return checkFields(sent, m.Run())
}

// silenceClients turns off the kubelet's client's log of every error that a test
// asks for.
func silenceClients() {
	flags := flag.NewFlagSet("klog", flag.PanicOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{"logtostderr": "false", "stderrthreshold": "FATAL"} {
		if err := flags.Set(name, value); err != nil {
			panic(err)
		}
	}
	klog.SetOutput(io.Discard)
}

// setUp makes what all tests share. cleanup is there even after an error.
func setUp() (cleanup func() error, err error) {
	dir, err := os.MkdirTemp("", "berth-it-")
	cleanup = func() error { return os.RemoveAll(dir) }
	if err == nil {
		err = passable(dir)
	}
	if err != nil {
		return cleanup, err
	}
	if bin = os.Getenv("BERTH_BIN"); bin == "" {
		bin = filepath.Join(dir, "bin")
		if err := build(bin); err != nil {
			return cleanup, err
		}
	}
	if registry, err = imagetest.Serve("127.0.0.1:0"); err != nil {
		return cleanup, err
	}
	if err := pushImages(); err != nil {
		return cleanup, err
	}
	if shared, err = newDaemon(context.Background(), filepath.Join(dir, "node"), ""); err == nil {
		err = warmUp(shared)
	}
	if err == nil {
		systemdDriver, err = asksSystemd(shared)
	}
	return func() error {
		registry.Close()
		if shared != nil {
			if err := shared.close(); err != nil {
				return err
			}
		}
		return os.RemoveAll(dir)
	}, err
}

func asksSystemd(d *daemon) (bool, error) {
	config, err := d.runtime.RuntimeConfig(context.Background())
	if err != nil {
		return false, fmt.Errorf("ask for the cgroup driver: %w", err)
	}
	return config.GetLinux().GetCgroupDriver() == runtimeapi.CgroupDriver_SYSTEMD, nil
}

// warmUp runs one pod, so that what a daemon opens once is open before the first
// check for leaks.
func warmUp(d *daemon) error {
	ctx := context.Background()
	if _, err := d.images.PullImage(ctx, &runtimeapi.ImageSpec{Image: busybox}, nil, nil); err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	dir, err := os.MkdirTemp("", "berth-it-log-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "warm-up", Uid: "warm-up", Namespace: "it"},
		LogDirectory: dir,
	}
	pod, err := d.runtime.RunPodSandbox(ctx, config, "")
	if err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	container, err := d.runtime.CreateContainer(ctx, pod, &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: busybox},
		Command: []string{"sleep", "60"}, LogPath: "c.log",
	}, config)
	if err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	if err := d.runtime.StartContainer(ctx, container); err != nil {
		return fmt.Errorf("warm up: %w", err)
	}
	_, _, execErr := d.runtime.ExecSync(ctx, container, []string{"true"}, time.Minute)
	return errors.Join(execErr, d.runtime.StopPodSandbox(ctx, pod), d.runtime.RemovePodSandbox(ctx, pod))
}

// build builds the programs as a release has them.
func build(dir string) error {
	cmd := exec.Command("make", "-s", "build", "cni-plugins", "BIN="+dir)
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return nil
}
