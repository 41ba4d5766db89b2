package integration

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"testing"

	"google.golang.org/grpc/codes"
	"k8s.io/client-go/rest"
	clientportforward "k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A session is listed with its pod as long as it lasts.
func TestSessionsAreListed(t *testing.T) {
	d := ownDaemon(t, "")
	p := d.runPod(t, hostNetwork)
	c := p.run()
	attach, err := d.runtime.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: c.id, Stdout: true, Stderr: true})
	if err != nil {
		t.Fatal(err)
	}
	for method, address := range map[string]string{
		"ExecSession":   c.execURL(t, &runtimeapi.ExecRequest{Cmd: []string{"sleep", "1000"}, Stdout: true}),
		"AttachSession": attach.Url,
	} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		o := remotecommand.StreamOptions{Stdout: io.Discard}
		if method == "AttachSession" {
			o.Stderr = io.Discard
		}
		go func() { ended <- stream(t, ctx, "SPDY", address, o) }()
		eventually(t, method+" is listed with its pod", func() bool {
			ops := d.operations(t, method)
			return len(ops) == 1 && ops[0].Standing && ops[0].Pod == p.config.Metadata.Name && ops[0].Namespace == "it" &&
				ops[0].ContainerID == c.id && ops[0].Container == c.conf.Metadata.Name
		})
		cancel()
		<-ended
		eventually(t, method+" is over", func() bool { return len(d.operations(t, method)) == 0 })
	}
	forwardedIsListed(t, d, p)
	p.remove()
}

func forwardedIsListed(t *testing.T, d *daemon, p *pod) {
	t.Helper()
	forward, err := d.runtime.PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: p.id})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(forward.Url)
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	// The pod is on the node's network, where the test's registry listens.
	remote := registry.Host[len("127.0.0.1:"):]
	forwarder, err := clientportforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u),
		[]string{"0:" + remote}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	<-ready
	ports, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get("http://127.0.0.1:" + itoa(int(ports[0].Local)) + "/v2/") // kept alive, and so is the session
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	eventually(t, "the port-forward is listed with its pod", func() bool {
		ops := d.operations(t, "PortForwardSession")
		return len(ops) == 1 && ops[0].Pod == p.config.Metadata.Name && ops[0].SandboxID == p.id
	})
	close(stop)
	<-ended
	http.DefaultClient.CloseIdleConnections()
	eventually(t, "the port-forward is over", func() bool { return len(d.operations(t, "PortForwardSession")) == 0 })
}

// What failed on the way of a pod is in its start record, once with how often.
func TestStartRecordOfFailures(t *testing.T) {
	d := ownDaemon(t, "")
	p := d.runPod(t, hostNetwork)
	missing := registry.Host + "/it/not-there:1"
	for range 2 {
		if _, err := d.images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: missing}, nil, p.config); err == nil {
			t.Fatal("was pulled")
		}
	}
	bad := func(c *runtimeapi.ContainerConfig) {
		c.Metadata.Name = "bad-volume"
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/mnt", Image: &runtimeapi.ImageSpec{Image: missing}}}
	}
	if _, err := p.tryCreate(bad); err == nil {
		t.Fatal("was created")
	}
	c := p.create(command("/not/there"))
	if err := d.runtime.StartContainer(t.Context(), c.id); err == nil || statusCode(err) == codes.OK {
		t.Fatal("was started")
	}
	resp, err := d.runtime.PodSandboxStatus(t.Context(), p.id, true)
	if err != nil {
		t.Fatal(err)
	}
	failed := map[string]shownStep{}
	for _, step := range startOf(t, resp.Info) {
		if step.Error != "" {
			failed[step.Stage+" "+step.Container+step.Image] = step
		}
	}
	if step := failed["pull "+missing]; step.Attempts != 2 {
		t.Errorf("failures are %+v", failed)
	}
	if step := failed["start "+c.conf.Metadata.Name]; step.Error == "" || len(failed) != 3 {
		t.Errorf("failures are %+v", failed)
	}
	p.remove()
}
