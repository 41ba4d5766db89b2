// Package testnode runs a berthd with directories, a bridge and a socket of its own, as
// the test suites that drive Berth from outside need it. It needs root and the programs
// that `make build cni-plugins` leaves in bin/.
package testnode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// startTimeout bounds how long berthd may take until it serves.
const startTimeout = 2 * time.Minute

// Options say what of a node differs from the defaults.
type Options struct {
	Dir    string // everything of the node lives below it
	Bin    string // where berthd, berth-monitor and cni/ are
	Bridge string // name of the pods' bridge, at most 15 bytes
	Subnet byte   // third byte of 10.250.N.0/24 and of fd00:10:250:N::/64
	Config string // YAML appended to berthd's configuration
	// Env is added to berthd's environment. It may change between two starts.
	Env []string
	// Through is the command that berthd is run by, as its last arguments; it must
	// exec it. It may change between two starts.
	Through []string
}

// Node is a berthd and what it serves. It is used by one goroutine.
type Node struct {
	Options
	Root, State, Socket string
	Log                 string // berthd's log file

	berthd *exec.Cmd
	ended  chan error // has what Wait says of berthd when it has ended
	conn   *grpc.ClientConn
}

// New lays out the node's directories; Start starts it.
func New(o Options) (*Node, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("this suite runs pods and needs root")
	}
	n := &Node{
		Options: o,
		Root:    filepath.Join(o.Dir, "lib"),
		State:   filepath.Join(o.Dir, "run"),
		Socket:  filepath.Join(o.Dir, "run", "berth.sock"),
		Log:     filepath.Join(o.Dir, "berthd.log"),
	}
	if err := os.MkdirAll(n.NetworkDir(), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(n.NetworkDir(), "10-test.conflist"), []byte(n.conflist()), 0o644); err != nil {
		return nil, err
	}
	if err := n.writeDropIns(); err != nil {
		return nil, err
	}
	return n, os.WriteFile(n.configFile(), []byte(n.config()), 0o644)
}

// Environment variables that change all nodes, so that a suite can be run with each.
const (
	// HandlerEnv names the program of an OCI runtime, which then runs every pod that
	// asks for no handler.
	HandlerEnv = "BERTH_TEST_HANDLER"
	// DriverEnv is the cgroup driver; without it berthd chooses.
	DriverEnv = "BERTH_TEST_CGROUP_DRIVER"
)

// writeDropIns configures what the environment says, in files of their own, which are
// merged with Options.Config.
func (n *Node) writeDropIns() error {
	if path := os.Getenv(HandlerEnv); path != "" {
		err := n.writeDropIn("10-handler", fmt.Sprintf("runtime: {defaultHandler: tested}\nruntimes: {tested: {path: %q}}\n", path))
		if err != nil {
			return err
		}
	}
	if driver := os.Getenv(DriverEnv); driver != "" {
		return n.writeDropIn("20-driver", fmt.Sprintf("runtime: {cgroupDriver: %s}\n", driver))
	}
	return nil
}

func (n *Node) writeDropIn(name, config string) error {
	dir := n.configFile() + ".d"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	config = "apiVersion: berth.dev/v1alpha1\nkind: BerthConfiguration\n" + config
	return os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(config), 0o644)
}

// NetworkDir is where the node's CNI configuration is.
func (n *Node) NetworkDir() string { return filepath.Join(n.Dir, "net.d") }

// IPAMDir is where host-local keeps the node's addresses, one file each.
func (n *Node) IPAMDir() string { return filepath.Join(n.Dir, "ipam", n.Bridge) }

func (n *Node) configFile() string { return filepath.Join(n.Dir, "berthd.yaml") }

func (n *Node) config() string {
	return fmt.Sprintf(`apiVersion: berth.dev/v1alpha1
kind: BerthConfiguration
network:
  confDirs: [%s]
  binDirs: [%s]
%s`, n.NetworkDir(), filepath.Join(n.Bin, "cni"), n.Options.Config)
}

func (n *Node) conflist() string {
	return fmt.Sprintf(`{"cniVersion": "1.0.0", "name": %q, "plugins": [
  {"type": "bridge", "bridge": %q, "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": %q,
     "ranges": [[{"subnet": "10.250.%d.0/24"}], [{"subnet": "fd00:10:250:%x::/64"}]],
     "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
`, n.Bridge, n.Bridge, filepath.Join(n.Dir, "ipam"), n.Subnet, n.Subnet)
}

// Start starts berthd and waits until it answers.
func (n *Node) Start(ctx context.Context) error {
	log, err := os.OpenFile(n.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	args := append(slices.Clone(n.Through), filepath.Join(n.Bin, "berthd"),
		"--config", n.configFile(), "--root", n.Root, "--state", n.State, "--log-level", "debug")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), n.Env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start berthd: %w", err)
	}
	n.berthd, n.ended = cmd, make(chan error, 1)
	go func() { n.ended <- cmd.Wait() }()
	if n.conn == nil {
		n.conn, err = grpc.NewClient("unix://"+n.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
		if err != nil {
			return err
		}
	}
	return n.await(ctx)
}

// await asks for the version until berthd answers or has ended.
func (n *Node) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		n.conn.ResetConnectBackoff()
		_, err := n.Runtime().Version(ctx, &runtimeapi.VersionRequest{})
		if err == nil {
			return nil
		}
		select {
		case ended := <-n.ended:
			n.berthd = nil
			return fmt.Errorf("berthd has ended before it served: %w; its log is %s", cmp.Or(ended, errors.New("with success")), n.Log)
		default:
		}
		if ctx.Err() != nil {
			return fmt.Errorf("berthd does not serve after %s: %w; its log is %s", startTimeout, err, n.Log)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Runtime is a client of the node's RuntimeService. It stays good over restarts.
func (n *Node) Runtime() runtimeapi.RuntimeServiceClient {
	return runtimeapi.NewRuntimeServiceClient(n.conn)
}

// Conn is for clients of berthd's other services, as Runtime is.
func (n *Node) Conn() *grpc.ClientConn { return n.conn }

// Images is a client of the node's ImageService, as Runtime is.
func (n *Node) Images() runtimeapi.ImageServiceClient {
	return runtimeapi.NewImageServiceClient(n.conn)
}

// PID is berthd's process ID, 0 when it does not run.
func (n *Node) PID() int {
	if n.berthd == nil {
		return 0
	}
	return n.berthd.Process.Pid
}

// Stop ends berthd with the signal and waits for it. Pods run on.
func (n *Node) Stop(signal syscall.Signal) error {
	if n.berthd == nil {
		return nil
	}
	if err := n.berthd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal berthd: %w", err)
	}
	err := <-n.ended
	n.berthd = nil
	if signal == syscall.SIGTERM && err != nil {
		return fmt.Errorf("berthd ended on SIGTERM with: %w", err)
	}
	return nil
}

// AwaitEnd waits until berthd has ended by itself. The error is that of ctx.
func (n *Node) AwaitEnd(ctx context.Context) error {
	if n.berthd == nil {
		return nil
	}
	select {
	case <-n.ended:
		n.berthd = nil
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for berthd to end: %w", ctx.Err())
	}
}

// Close removes every pod, ends both programs and removes what the node left. What
// should not have been there any more is part of the error.
func (n *Node) Close(ctx context.Context) error {
	var errs []error
	if n.berthd != nil {
		errs = append(errs, n.RemovePods(ctx), n.Stop(syscall.SIGTERM))
	}
	if n.conn != nil {
		errs = append(errs, n.conn.Close())
	}
	errs = append(errs, n.EndMonitor(), n.unmountAll())
	exec.Command("ip", "link", "delete", n.Bridge).Run() // absent when no pod had a network
	return errors.Join(append(errs, os.RemoveAll(n.Dir))...)
}

// RemovePods stops and removes every sandbox.
func (n *Node) RemovePods(ctx context.Context) error {
	list, err := n.Runtime().ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pod sandboxes: %w", err)
	}
	for _, s := range list.Items {
		if _, err := n.Runtime().StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.Id}); err != nil {
			return fmt.Errorf("stop pod sandbox %s: %w", s.Id, err)
		}
		if _, err := n.Runtime().RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id}); err != nil {
			return fmt.Errorf("remove pod sandbox %s: %w", s.Id, err)
		}
	}
	return nil
}

// MonitorPID is the process ID of the node's monitor, 0 when none runs.
func (n *Node) MonitorPID() (int, error) {
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range pids {
		args, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || !strings.Contains(string(args), n.State) {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(dir, "comm"))
		if err != nil || strings.TrimSpace(string(comm)) != "berth-monitor" {
			continue
		}
		return strconv.Atoi(filepath.Base(dir))
	}
	return 0, nil
}

// EndMonitor ends the monitor, which outlives its daemon on purpose, as the end of the
// machine does.
func (n *Node) EndMonitor() error {
	pid, err := n.MonitorPID()
	if err != nil || pid == 0 {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("end the monitor: %w", err)
	}
	for range 500 {
		if syscall.Kill(pid, 0) != nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("the monitor (process %d) does not end", pid)
}

// Mounts lists the mount points below the node's directories.
func (n *Node) Mounts() ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var mounts []string
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], n.Dir+"/") {
			mounts = append(mounts, fields[4])
		}
	}
	return mounts, nil
}

func (n *Node) unmountAll() error {
	mounts, err := n.Mounts()
	for i := len(mounts) - 1; i >= 0; i-- {
		if e := unix.Unmount(mounts[i], unix.MNT_DETACH); e != nil && !errors.Is(e, unix.EINVAL) {
			err = errors.Join(err, fmt.Errorf("unmount %s: %w", mounts[i], e))
		}
	}
	return err
}
