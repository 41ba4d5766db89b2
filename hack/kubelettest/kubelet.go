// Package kubelettest drives Berth with a real kubelet: static pods, standalone, no
// API server. It needs root, and the kubelet that `make test-kubelet` builds.
package kubelettest

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
)

// nodeName is what the kubelet appends to the names of static pods.
const nodeName = "node"

// kubelet is a running kubelet that takes static pods from a folder.
type kubelet struct {
	binary   string
	dir      string
	socket   string // of the container runtime
	port     int    // of its API, with TLS
	readOnly int    // of its API without authentication
	healthz  int
	cgroup   string // the cgroup that all pods are below

	cmd *exec.Cmd
}

func (k *kubelet) manifests() string { return filepath.Join(k.dir, "manifests") }
func (k *kubelet) podLogs() string   { return filepath.Join(k.dir, "logs") }
func (k *kubelet) root() string      { return filepath.Join(k.dir, "root") }
func (k *kubelet) log() string       { return filepath.Join(k.dir, "kubelet.log") }

// config is a kubelet's for a node of its own, on cgroup v1 too, that evicts nothing.
func (k *kubelet) config() string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%s
staticPodPath: %s
podLogsDir: %s
address: 127.0.0.1
port: %d
readOnlyPort: %d
healthzPort: %d
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: %s
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
fileCheckFrequency: 1s
syncFrequency: 2s
evictionHard: {memory.available: "0%%", nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%", imagefs.inodesFree: "0%%"}
imageGCHighThresholdPercent: 100
makeIPTablesUtilChains: false
`, k.socket, k.manifests(), k.podLogs(), k.port, k.readOnly, k.healthz, k.cgroup)
}

// start starts the kubelet and waits until it says that it is healthy.
func (k *kubelet) start(ctx context.Context) error {
	for _, dir := range []string{k.manifests(), k.podLogs()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	config := filepath.Join(k.dir, "config.yaml")
	if err := os.WriteFile(config, []byte(k.config()), 0o644); err != nil {
		return err
	}
	log, err := os.OpenFile(k.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	k.cmd = exec.Command(k.binary, "--config", config, "--root-dir", k.root(),
		"--cert-dir", filepath.Join(k.dir, "pki"), "--hostname-override", nodeName, "--v", "2")
	k.cmd.Stdout, k.cmd.Stderr = log, log
	if err := k.cmd.Start(); err != nil {
		return fmt.Errorf("start the kubelet: %w", err)
	}
	return k.await(ctx)
}

func (k *kubelet) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if _, err := k.get(ctx, fmt.Sprintf("http://127.0.0.1:%d/healthz", k.healthz)); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the kubelet does not get healthy; its log is %s", k.log())
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// stop ends the kubelet; its pods run on.
func (k *kubelet) stop() error {
	if k.cmd == nil {
		return nil
	}
	if err := k.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop the kubelet: %w", err)
	}
	k.cmd.Wait() // its exit code on SIGTERM is its own affair
	k.cmd = nil
	return nil
}

func (k *kubelet) get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // it signed its certificate itself
		DisableKeepAlives: true,
	}}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, response.Status, bytes.TrimSpace(body))
	}
	return body, err
}

// pods are those that the kubelet knows, with their status.
func (k *kubelet) pods(ctx context.Context) ([]corev1.Pod, error) {
	body, err := k.get(ctx, fmt.Sprintf("http://127.0.0.1:%d/pods", k.readOnly))
	if err != nil {
		return nil, err
	}
	var list corev1.PodList
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("read the kubelet's pods: %w", err)
	}
	return list.Items, nil
}

// pod is the one of that name, nil when the kubelet does not know it.
func (k *kubelet) pod(ctx context.Context, name string) (*corev1.Pod, error) {
	pods, err := k.pods(ctx)
	if err != nil {
		return nil, err
	}
	for i := range pods {
		if pods[i].Name == name+"-"+nodeName {
			return &pods[i], nil
		}
	}
	return nil, nil
}

// apply writes the pod's manifest, whole at once.
func (k *kubelet) apply(pod *corev1.Pod) error {
	data, err := json.Marshal(pod)
	if err != nil {
		return err
	}
	partial := filepath.Join(k.dir, pod.Name+".json")
	if err := os.WriteFile(partial, data, 0o644); err != nil {
		return err
	}
	return os.Rename(partial, filepath.Join(k.manifests(), pod.Name+".json"))
}

func (k *kubelet) remove(name string) error {
	return os.Remove(filepath.Join(k.manifests(), name+".json"))
}

// logs asks the kubelet's API for a container's log, as kubectl logs does.
func (k *kubelet) logs(ctx context.Context, pod, container string, previous bool) (string, error) {
	body, err := k.get(ctx, fmt.Sprintf("https://127.0.0.1:%d/containerLogs/default/%s-%s/%s?previous=%t",
		k.port, pod, nodeName, container, previous))
	return string(body), err
}

// exec runs a command through the kubelet's API, as kubectl exec does.
func (k *kubelet) exec(ctx context.Context, pod, container, stdin string, command ...string) (string, error) {
	query := url.Values{"command": command, "output": {"1"}, "error": {"1"}}
	if stdin != "" {
		query.Set("input", "1")
	}
	target := &url.URL{
		Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", k.port),
		Path: "/exec/default/" + pod + "-" + nodeName + "/" + container, RawQuery: query.Encode(),
	}
	config := &rest.Config{Host: target.Host, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	executor, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, target)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	options := remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr}
	if stdin != "" {
		options.Stdin = strings.NewReader(stdin)
	}
	if err := executor.StreamWithContext(ctx, options); err != nil {
		return stdout.String(), errors.Join(err, errors.New(stderr.String()))
	}
	return stdout.String(), nil
}
