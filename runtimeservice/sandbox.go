package runtimeservice

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/runtimeservice/record"
)

// sandbox is a pod sandbox. It has no process of its own, unless its containers
// share a PID namespace: it consists of pinned namespaces, a few files and an
// attachment to the network.
//
//	          RunPodSandbox         StopPodSandbox, reboot, end of the pod's init
//	creating ───────────────▶ ready ─────────────────────────────▶ stopped
//	    │ fails                 │                                     │ all resources
//	    ▼                       │ RemovePodSandbox                    ▼ given back
//	  (undone)                  └─────────────▶ removing ◀──── stopped, released
//	                                               │
//	                                               ▼
//	                                            (gone)
//
// Each state is on record before anything is done for it, so the next start
// knows what may be there. CRI calls ready SANDBOX_READY, the others
// SANDBOX_NOTREADY; one in creation is not listed, its ID is nobody's yet.
type sandbox struct {
	id     string
	key    sandboxKey
	config *runtimeapi.PodSandboxConfig // as it came; not to be changed
	store  *record.Store[record.Sandbox]

	// rec is what the record says. The value behind it is never changed.
	rec atomic.Pointer[record.Sandbox]
	// resources are those of the whole pod, as the kubelet last told them.
	resources atomic.Pointer[podResources]
	// members is taken in part by those who make or start a container in the
	// sandbox, in whole by those who stop or remove it.
	members *semaphore.Weighted

	// mu orders the writing of the record and guards the fields below.
	mu         sync.Mutex
	containers map[string]*container
	// removed says that the record was deleted: written again, it would come back.
	removed bool

	// toldStopped is set when plugins know that the sandbox is stopped; one who has the
	// whole of members reads and writes it.
	toldStopped bool

	// updating makes the updates of resources follow each other.
	updating sync.Mutex
	// telling makes the snapshots of the pod's events follow each other.
	telling sync.Mutex
}

// wholeSandbox is the weight of one who has a sandbox's members for himself.
const wholeSandbox = 1 << 30

// sandboxKey is what makes a sandbox unique for a kubelet.
type sandboxKey struct {
	namespace, name, uid string
	attempt              uint32
}

func sandboxKeyOf(m *runtimeapi.PodSandboxMetadata) sandboxKey {
	return sandboxKey{m.GetNamespace(), m.GetName(), m.GetUid(), m.GetAttempt()}
}

func (k sandboxKey) String() string {
	return fmt.Sprintf("%s/%s (UID %s, attempt %d)", k.namespace, k.name, k.uid, k.attempt)
}

func newSandbox(rec *record.Sandbox, config *runtimeapi.PodSandboxConfig, store *record.Store[record.Sandbox]) *sandbox {
	sb := &sandbox{
		id:         rec.ID,
		key:        sandboxKeyOf(config.GetMetadata()),
		config:     config,
		store:      store,
		members:    semaphore.NewWeighted(wholeSandbox),
		containers: make(map[string]*container),
	}
	sb.rec.Store(rec)
	sb.resources.Store(&podResources{
		overhead:  config.GetLinux().GetOverhead(),
		resources: config.GetLinux().GetResources(),
	})
	return sb
}

// sandboxFromRecord is newSandbox for a record that was read.
func sandboxFromRecord(rec *record.Sandbox, store *record.Store[record.Sandbox]) (*sandbox, error) {
	config := &runtimeapi.PodSandboxConfig{}
	if err := proto.Unmarshal(rec.Config, config); err != nil {
		return nil, fmt.Errorf("read configuration of sandbox %s: %w", rec.ID, err)
	}
	sb := newSandbox(rec, config, store)
	resources, err := sb.resources.Load().updated(rec)
	if err != nil {
		return nil, fmt.Errorf("read resources of sandbox %s: %w", rec.ID, err)
	}
	sb.resources.Store(resources)
	return sb, nil
}

// update changes the record, first on disk and then in memory. A change that
// could not be written is not made. A sandbox that was removed is ErrNotFound.
func (sb *sandbox) update(change func(*record.Sandbox)) error {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	if sb.removed {
		return fmt.Errorf("sandbox %s was removed: %w", sb.id, errdefs.ErrNotFound)
	}
	next := *sb.rec.Load()
	change(&next)
	if err := sb.store.Put(sb.id, &next); err != nil {
		return err
	}
	sb.rec.Store(&next)
	return nil
}

// criState is the state as CRI has it.
func (sb *sandbox) criState() runtimeapi.PodSandboxState {
	if sb.rec.Load().State == record.Ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

// requireReady is the error of what only a ready sandbox can do:
// ErrFailedPrecondition.
func (sb *sandbox) requireReady() error {
	rec := sb.rec.Load()
	if rec.State == record.Ready {
		return nil
	}
	reason := rec.Reason
	if reason == "" {
		reason = string(rec.State)
	}
	return fmt.Errorf("sandbox %s is not ready (%s): %w", sb.id, reason, errdefs.ErrFailedPrecondition)
}

// join makes the caller one of those who use a ready sandbox, who keep it from
// being stopped; he calls leave. The error is ErrFailedPrecondition or ctx's.
func (sb *sandbox) join(ctx context.Context) error {
	// Looked at before waiting too: a stop can take its time.
	if err := sb.requireReady(); err != nil {
		return err
	}
	if err := sb.acquireMembers(ctx, 1); err != nil {
		return err
	}
	if err := sb.requireReady(); err != nil {
		sb.leave()
		return err
	}
	return nil
}

func (sb *sandbox) leave() { sb.members.Release(1) }

func (sb *sandbox) addContainer(c *container) {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	sb.containers[c.id] = c
}

func (sb *sandbox) dropContainer(c *container) {
	sb.mu.Lock()
	defer sb.mu.Unlock()
	delete(sb.containers, c.id)
}

// all returns the containers of the sandbox, the oldest first.
func (sb *sandbox) all() []*container {
	sb.mu.Lock()
	all := slices.Collect(maps.Values(sb.containers))
	sb.mu.Unlock()
	sortContainers(all)
	return all
}

func (sb *sandbox) networkMode() runtimeapi.NamespaceMode {
	return sb.config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork()
}

func (sb *sandbox) hostNetwork() bool {
	return sb.networkMode() == runtimeapi.NamespaceMode_NODE
}
