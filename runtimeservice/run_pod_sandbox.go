package runtimeservice

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cni"
	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/monitor"
	"github.com/berth-cri/berth/runtimeservice/namespaces"
	"github.com/berth-cri/berth/runtimeservice/podfiles"
	"github.com/berth-cri/berth/runtimeservice/record"
	"github.com/berth-cri/berth/runtimeservice/spec"
	"github.com/berth-cri/berth/runtimeservice/undo"
)

// RunPodSandbox makes a sandbox and returns its ID when it is ready.
//
// A call for the same metadata while one is under way waits for that one and
// returns its result; so does one for a sandbox that became ready after its
// caller had gone. For any other sandbox with the same metadata that has not
// been removed the error is ErrAlreadyExists. After an error nothing is left,
// except perhaps a debt of the network.
func (s *Service) RunPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	id, _, err := s.runPodSandbox(ctx, config, handler, false)
	return id, err
}

// runPodSandbox is RunPodSandbox. mine tells that this call made the sandbox: it joined no
// other one. With restoring the next start removes it, unless that is taken from its record.
func (s *Service) runPodSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string, restoring bool) (id string, mine bool, err error) {
	runtime, err := s.opts.Handlers.Resolve(handler)
	if err != nil {
		return "", false, fmt.Errorf("runtime_handler: %w", err)
	}
	if err := validateSandbox(config); err != nil {
		return "", false, err
	}
	if err := s.requireUserNamespaces(config); err != nil {
		return "", false, err
	}
	if err := spec.CheckPodSeccomp(ctx, s.opts.Host, config); err != nil {
		return "", false, err
	}
	key := sandboxKeyOf(config.GetMetadata())
	var made atomic.Bool
	id, err = s.runs.Do(ctx, key, func(ctx context.Context) (string, error) {
		made.Store(true)
		s.background.begin()
		defer s.background.end()
		if id, exists := s.sandboxes.named(key); exists {
			return "", fmt.Errorf("sandbox of pod %s exists with ID %s; stop and remove it, or count the attempt up: %w", key, id, errdefs.ErrAlreadyExists)
		}
		ctx, cancel := context.WithTimeout(ctx, runSandboxTimeout)
		defer cancel()
		return s.runSandbox(ctx, config, handler, runtime, restoring)
	})
	if err != nil {
		return "", false, fmt.Errorf("run sandbox of pod %s: %w", key, err)
	}
	s.sandboxDelivered(id)
	return id, made.Load(), nil
}

// sandboxDelivered remembers that a caller knows the ID, so that after a restart
// of the daemon too the next one with the same metadata is told that it exists.
func (s *Service) sandboxDelivered(id string) {
	sb, ok := s.sandboxes.get(id)
	if !ok || sb.rec.Load().Delivered {
		return
	}
	s.inBackground("note that the sandbox's ID is known", func(context.Context) error {
		err := sb.update(func(rec *record.Sandbox) { rec.Delivered = true })
		if errdefs.IsNotFound(err) {
			return nil // it is removed by now
		}
		return err
	})
}

// runSandbox makes the sandbox, or undoes what it has made of it.
func (s *Service) runSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler, runtime string, restoring bool) (id string, err error) {
	ctx, timings := collectStart(ctx)
	if _, err := s.sandboxHandler(ctx, config, runtime); err != nil {
		return "", err
	}
	rec, err := s.newSandboxRecord(config, handler, runtime)
	if err != nil {
		return "", err
	}
	rec.Restoring = restoring
	if err := s.labelSandbox(rec, config); err != nil {
		return "", err
	}
	sb := newSandbox(rec, config, s.sandboxRecords)
	aboutSandbox(ctx, sb)
	if err := s.sandboxRecords.Put(sb.id, rec); err != nil {
		s.opts.Labels.Release(sb.id)
		return "", err
	}
	var u undo.Stack
	defer func() {
		if err != nil {
			s.takeBack(ctx, s.log.With("sandbox", sb.id), sb.id, &u, s.deleteSandboxRecord, s.purgeSandbox)
		}
	}()
	for _, step := range []struct {
		stage string
		do    func(context.Context, *sandbox, *undo.Stack) error
	}{
		{"log directory", s.makeLogDirectory},
		{stageNamespaces, s.makeNamespaces},
		{stageFiles, s.writePodFiles},
		{stageNetwork, s.attachNetwork},
		{stageInit, s.startPodInit},
	} {
		if err := operation.Do(ctx, step.stage, func(ctx context.Context) error { return step.do(ctx, sb, &u) }); err != nil {
			return "", err
		}
	}
	turn := s.plugins.begin()
	defer turn.End()
	if err := operation.Do(ctx, stagePlugins, func(ctx context.Context) error { return s.plugins.podRuns(ctx, turn, sb, &u) }); err != nil {
		return "", err
	}
	if err := sb.update(func(rec *record.Sandbox) {
		rec.State = record.Ready
		rec.Start = s.startSteps(timings)
	}); err != nil {
		return "", err
	}
	u.Release()
	s.sandboxes.add(sb.id, sb.key, sb)
	turn.End()
	s.tellSandbox(sb, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	s.tellSandbox(sb, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return sb.id, nil
}

// newSandboxRecord writes down what is known before anything is made.
func (s *Service) newSandboxRecord(config *runtimeapi.PodSandboxConfig, handler, runtime string) (*record.Sandbox, error) {
	parent, err := s.sandboxCgroupParent(config)
	if err != nil {
		return nil, err
	}
	raw, err := proto.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	return &record.Sandbox{
		ID:           newID(),
		State:        record.Creating,
		BootID:       s.opts.BootID,
		CreatedAt:    time.Now().UnixNano(),
		Handler:      handler,
		Runtime:      runtime,
		Config:       raw,
		CgroupParent: parent,
		// Said before it is so: the next start undoes what may be there.
		NetworkAttached: config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() != runtimeapi.NamespaceMode_NODE,
		PodInit:         sharesPID(config),
	}, nil
}

func (s *Service) makeLogDirectory(_ context.Context, sb *sandbox, u *undo.Stack) error {
	dir := sb.config.GetLogDirectory()
	if dir == "" {
		return nil
	}
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	u.Add("remove log directory", undoTimeout, func(context.Context) error {
		// Somebody else may have put something there by now: that stays.
		_ = os.Remove(dir)
		return nil
	})
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	return nil
}

func (s *Service) makeNamespaces(ctx context.Context, sb *sandbox, u *undo.Stack) error {
	options := sb.config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	dir := s.sandboxDir(sb.id)
	u.Add("remove namespaces and files", undoTimeout, func(ctx context.Context) error { return s.removeSandboxDir(ctx, sb.id) })
	req := namespaces.Request{
		Dir:     dir,
		Network: !sb.hostNetwork(),
		IPC:     options.GetIpc() != runtimeapi.NamespaceMode_NODE,
		UTS:     !sb.hostNetwork(),
		Sysctls: sb.config.GetLinux().GetSysctls(),
		User:    userMapping(sb.config),
	}
	if req.UTS {
		req.Hostname = sandboxHostname(sb.config)
	}
	pins, err := s.opts.Namespaces.Create(ctx, req)
	if err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	paths := make(map[string]string, len(pins))
	for kind, path := range pins {
		paths[string(kind)] = path
	}
	// In memory only: the next update writes it, and until then the record's
	// state says that everything is to be undone.
	next := *sb.rec.Load()
	next.Namespaces = paths
	sb.rec.Store(&next)
	return nil
}

func (s *Service) writePodFiles(_ context.Context, sb *sandbox, _ *undo.Stack) error {
	resolv, err := spec.RenderResolvConf(sb.config.GetDnsConfig(), nodeResolvConf)
	if err != nil {
		return err
	}
	name := sandboxHostname(sb.config)
	if sb.hostNetwork() {
		if name, err = os.Hostname(); err != nil {
			return fmt.Errorf("read the host name: %w", err)
		}
	}
	host, err := spec.RenderHostname(name)
	if err != nil {
		return err
	}
	ipc := sb.config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetIpc()
	return podfiles.Write(s.sandboxDir(sb.id), podfiles.Content{
		ResolvConf: resolv,
		Hostname:   host,
		Shm:        ipc != runtimeapi.NamespaceMode_NODE,
		Owner:      rootOf(sb.config),
		Label:      sb.rec.Load().FileLabel,
	}, s.opts.Mounter)
}

func (s *Service) attachNetwork(ctx context.Context, sb *sandbox, u *undo.Stack) error {
	if sb.hostNetwork() {
		return nil
	}
	// A failed ADD can hold an address too, but the network has undone it, or has
	// it as a debt: a plugin that hangs is not waited for once more.
	u.Add("release network", undoNetworkTimeout, func(ctx context.Context) error {
		s.opts.Network.Release(ctx, sb.id)
		return nil
	})
	handler, err := s.handlerOf(ctx, sb.rec.Load())
	if err != nil {
		return err
	}
	pod := networkPod(sb)
	pod.ConfDirs = handler.NetworkConfDirs
	attachment, err := s.opts.Network.Attach(ctx, pod)
	if err != nil {
		return fmt.Errorf("attach to network: %w", err)
	}
	u.Add("detach from network", undoNetworkTimeout, func(ctx context.Context) error {
		s.detachNetwork(ctx, sb.id)
		return nil
	})
	next := *sb.rec.Load()
	for _, ip := range attachment.IPs {
		next.IPs = append(next.IPs, ip.String())
	}
	next.CNIResult = attachment.Result
	sb.rec.Store(&next)
	return nil
}

func networkPod(sb *sandbox) cni.Pod {
	rec := sb.rec.Load()
	meta := sb.config.GetMetadata()
	dns := sb.config.GetDnsConfig()
	pod := cni.Pod{
		ID:           sb.id,
		Name:         meta.GetName(),
		Namespace:    meta.GetNamespace(),
		UID:          meta.GetUid(),
		NetNS:        rec.Namespaces[string(namespaces.Network)],
		Annotations:  sb.config.GetAnnotations(),
		CgroupParent: rec.CgroupParent,
		DNS:          cni.DNS{Servers: dns.GetServers(), Searches: dns.GetSearches(), Options: dns.GetOptions()},
	}
	for _, m := range sb.config.GetPortMappings() {
		pod.PortMappings = append(pod.PortMappings, cni.PortMapping{
			Protocol:      strings.ToLower(m.GetProtocol().String()),
			HostIP:        m.GetHostIp(),
			HostPort:      m.GetHostPort(),
			ContainerPort: m.GetContainerPort(),
		})
	}
	return pod
}

// startPodInit starts the one process a sandbox can have: the init of the PID
// namespace that its containers share.
func (s *Service) startPodInit(ctx context.Context, sb *sandbox, u *undo.Stack) error {
	rec := sb.rec.Load()
	if !rec.PodInit {
		return nil
	}
	cgroup, err := spec.CgroupsPath(s.opts.SystemdCgroup, rec.CgroupParent, "", sb.id)
	if err != nil {
		return err
	}
	u.Add("end the pod's init", undoTimeout, func(ctx context.Context) error { return s.opts.Processes.Delete(ctx, sb.id) })
	started, err := s.opts.Processes.StartPodInit(ctx, monitor.PodInitRequest{
		ID:            sb.id,
		IPC:           rec.Namespaces[string(namespaces.IPC)],
		UTS:           rec.Namespaces[string(namespaces.UTS)],
		Net:           rec.Namespaces[string(namespaces.Network)],
		User:          rec.Namespaces[string(namespaces.User)],
		Label:         podInitLabel(rec, sb.config),
		CgroupsPath:   cgroup,
		SystemdCgroup: s.opts.SystemdCgroup,
	})
	if err != nil {
		return fmt.Errorf("start the pod's init: %w", err)
	}
	from := fmt.Sprintf("/proc/%d/ns/pid", started.Pid)
	path, err := s.opts.Namespaces.Pin(ctx, s.sandboxDir(sb.id), namespaces.PID, from)
	if err != nil {
		return err
	}
	next := *sb.rec.Load()
	next.InitPid = started.Pid
	next.Namespaces = maps.Clone(next.Namespaces)
	next.Namespaces[string(namespaces.PID)] = path
	sb.rec.Store(&next)
	return nil
}

// sharesPID tells whether the containers of the pod share a PID namespace.
func sharesPID(config *runtimeapi.PodSandboxConfig) bool {
	return config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid() == runtimeapi.NamespaceMode_POD
}

// sandboxCgroupParent is the cgroup under which those of the containers are.
func (s *Service) sandboxCgroupParent(config *runtimeapi.PodSandboxConfig) (string, error) {
	parent := config.GetLinux().GetCgroupParent()
	if parent == "" {
		parent = s.opts.CgroupParent
	}
	// Also finds what is wrong with the parent, before anything is made.
	if _, err := spec.CgroupsPath(s.opts.SystemdCgroup, parent, "", "pod"); err != nil {
		return "", err
	}
	return parent, nil
}

// removeSandboxDir removes the pins and the files of a sandbox; idempotent.
func (s *Service) removeSandboxDir(ctx context.Context, id string) error {
	dir := s.sandboxDir(id)
	return errors.Join(s.opts.Namespaces.Remove(ctx, dir), podfiles.Remove(dir, s.opts.Mounter))
}

// nodeResolvConf is what a pod without a DNS configuration gets a copy of.
const nodeResolvConf = "/etc/resolv.conf"

// maxHostname is the kernel's limit less one, what DNS takes for a label.
const maxHostname = 63

// sandboxHostname is the host name of a pod with a network of its own. The
// kubelet always sends one; of a person's pod that has none it is the pod's name.
func sandboxHostname(config *runtimeapi.PodSandboxConfig) string {
	if name := config.GetHostname(); name != "" {
		return name
	}
	name := filepath.Base(config.GetMetadata().GetName())
	if len(name) > maxHostname {
		name = name[:maxHostname]
	}
	return strings.TrimRight(name, "-._")
}
