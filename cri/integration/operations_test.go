package integration

import (
	"context"
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cri/berthapi"
)

// operations lists what the daemon does, of the method, or all of it.
func (d *daemon) operations(t testing.TB, method string) []berthapi.Operation {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+d.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	resp, err := berthapi.NewOperationsClient(conn).ListOperations(ctx, berthapi.ListOperationsRequest{All: strings.HasSuffix(method, "Session")})
	if err != nil {
		t.Fatal(err)
	}
	var ops []berthapi.Operation
	for _, op := range resp.Operations {
		if method == "" || op.Method == method {
			ops = append(ops, op)
		}
	}
	return ops
}

// answerLimit is how long a call may take that waits for nothing, on a machine
// that is very busy.
const answerLimit = 20 * time.Second

// A pod that waits for a plugin is listed with the plugin's name, a call that
// joined it with the call that it joined, and so is the work of one whose caller
// has gone.
func TestOperationsTellWhatTheyWaitFor(t *testing.T) {
	d, gate := slowDaemon(t)
	config := podConfig(t)
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := d.runtime.RunPodSandbox(ctx, config, "")
		first <- err
	}()
	eventually(t, "the network is being set up", func() bool { return exists(gate + ".reached") })
	ops := d.operations(t, "RunPodSandbox")
	if len(ops) != 1 || ops[0].Pod != config.Metadata.Name || ops[0].Namespace != "it" || ops[0].UID != config.Metadata.Uid || ops[0].SandboxID == "" ||
		len(ops[0].Steps) != 1 || ops[0].Steps[0].Stage != "network" || ops[0].Steps[0].WaitsFor != "network plugin slow ADD" {
		t.Errorf("while the plugin runs: %+v", ops)
	}
	cancel()
	<-first
	eventually(t, "the caller is known to have gone", func() bool {
		ops := d.operations(t, "RunPodSandbox")
		return len(ops) == 1 && ops[0].Answered && ops[0].Outcome != ""
	})
	second := make(chan error, 1)
	go func() {
		_, err := d.runtime.RunPodSandbox(t.Context(), config, "")
		second <- err
	}()
	eventually(t, "the second call says what it has joined", func() bool {
		ops := d.operations(t, "RunPodSandbox")
		return len(ops) == 2 && len(ops[1].Steps) == 1 && strings.HasPrefix(ops[1].Steps[0].WaitsFor, "RunPodSandbox (operation ")
	})
	write(t, gate, "")
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is listed any more", func() bool { return len(d.operations(t, "RunPodSandbox")) == 0 })
}

// shownStep is a stage of a start record as a verbose status has it.
type shownStep struct {
	Stage, Container, Image string
	Began                   time.Time
	Milliseconds            float64
	Error                   string
	Attempts                int
}

func startOf(t *testing.T, info map[string]string) []shownStep {
	t.Helper()
	var shown struct{ Start []shownStep }
	if err := json.Unmarshal([]byte(info["info"]), &shown); err != nil {
		t.Fatal(err)
	}
	return shown.Start
}

func stages(steps []shownStep) string {
	var names []string
	for _, s := range steps {
		names = append(names, strings.TrimSpace(s.Container+" "+s.Stage))
	}
	return strings.Join(names, ",")
}

// A pod keeps how it came up, over a kill of the daemon too.
func TestStartRecord(t *testing.T) {
	d := ownDaemon(t, "")
	config := podConfig(t)
	ctx := t.Context()
	id, err := d.runtime.RunPodSandbox(ctx, config, "")
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{t, d, id, config}
	if _, err := d.images.PullImage(ctx, &runtimeapi.ImageSpec{Image: busybox}, nil, config); err != nil {
		t.Fatal(err)
	}
	c := p.create()
	if err := d.runtime.StartContainer(ctx, c.id); err != nil {
		t.Fatal(err)
	}
	name := c.conf.Metadata.Name
	container := strings.ReplaceAll("c queue,c image,c mount,c create,c plugins,c queue,c plugins,c start", "c ", name+" ")
	want := "queue,log directory,namespaces,files,network,init,plugins,pull," + container
	check := func(when string) {
		t.Helper()
		resp, err := d.runtime.PodSandboxStatus(ctx, id, true)
		if err != nil {
			t.Fatal(err)
		}
		steps := startOf(t, resp.Info)
		if got := stages(steps); got != want {
			t.Errorf("%s: pod's start is\n%s, want\n%s", when, got, want)
		}
		for i, s := range steps {
			if s.Milliseconds < 0 || s.Began.IsZero() || i > 0 && s.Began.Before(steps[i-1].Began) {
				t.Errorf("%s: step %+v", when, s)
			}
			if s.Stage == "pull" && s.Image != busybox {
				t.Errorf("%s: pull of %q", when, s.Image)
			}
		}
		status, err := d.runtime.ContainerStatus(ctx, c.id, true)
		if err != nil {
			t.Fatal(err)
		}
		if got := stages(startOf(t, status.Info)); got != container {
			t.Errorf("%s: container's start is %s", when, got)
		}
	}
	check("at once")
	d.restart(t, syscall.SIGKILL)
	check("after a kill of the daemon")
	p.remove()
}
