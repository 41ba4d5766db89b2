package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"

	"github.com/berth-cri/berth/cmd/berth/internal/fakecri"
)

func TestInspectFindsContainersPodsAndImages(t *testing.T) {
	s := node(t)
	for _, test := range []struct{ ref, template, want string }{
		{"nginx", "{{.status.metadata.name}} {{.status.state}} {{.info.info.pid}} {{.info.note}}", "nginx CONTAINER_RUNNING 42 not JSON"},
		{"db", "{{.status.runtimeHandler}} {{.info.info.netns}}", "kata /run/fake/net"},
		{"docker.io/library/nginx:1.27", "{{.status.size}} {{.info.info.imageSpec.architecture}}", "71234567 amd64"},
	} {
		want(t, test.ref, wantOK(t, s, "inspect", "--template", test.template, test.ref), test.want+"\n")
	}
	wantFailure(t, s, 1, []string{`no container, pod or image "nope"`, "`berth ps -a`, `berth pods` and `berth images`"}, "inspect", "nope")
	wantFailure(t, s, 1, []string{`no container "db"`}, "inspect", "--type", "container", "db")
	wantFailure(t, s, 1, []string{`--type "volume" is none of`}, "inspect", "--type", "volume", "db")
	wantFailure(t, s, 1, []string{"--template: "}, "inspect", "--template", "{{", "db")
}

func TestInspectFormats(t *testing.T) {
	s := node(t)
	var one map[string]any
	if err := json.Unmarshal([]byte(wantOK(t, s, "inspect", "nginx")), &one); err != nil {
		t.Fatal(err)
	}
	fields := one["status"].(map[string]any)
	created, err := time.Parse(time.RFC3339Nano, fields["createdAt"].(string))
	if err != nil || time.Since(created) < 2*time.Minute || time.Since(created) > 3*time.Minute {
		t.Errorf("createdAt %v, %v", fields["createdAt"], err)
	}
	want(t, "finishedAt", fields["finishedAt"].(string), "0001-01-01T00:00:00Z")
	var many []map[string]any
	if err := yaml.Unmarshal([]byte(wantOK(t, s, "inspect", "-o", "yaml", "nginx", "db")), &many); err != nil || len(many) != 2 {
		t.Errorf("%d inspections, %v", len(many), err)
	}
	table := wantOK(t, s, "inspect", "-o", "table", "aaaa0")
	for _, line := range []string{"exitCode:    3\n", "name:        nginx\n", "reason:      Error\n", "state:       CONTAINER_EXITED\n"} {
		if !strings.Contains(table, line) {
			t.Errorf("no %q in\n%s", line, table)
		}
	}
}

func TestStatsTable(t *testing.T) {
	s := node(t)
	s.SetStats([]*runtimeapi.ContainerStats{
		containerStats(webID, "nginx", 125_000_000), containerStats(sideID, "proxy", 0),
	}, nil)
	want(t, "stats", wantOK(t, s, "stats", "--interval", "1ms"), strings.TrimLeft(`
CONTAINER       NAME    CPU %   MEM      DISK     INODES
aaaa111111111   nginx   12.50   12.3MB   45.1kB   17
bbbb222222222   proxy   50.00   12.3MB   45.1kB   17
`, "\n"))
	want(t, "stats of one", wantOK(t, s, "stats", "nginx"), strings.TrimLeft(`
CONTAINER       NAME    CPU %   MEM      DISK     INODES
aaaa111111111   nginx   12.50   12.3MB   45.1kB   17
`, "\n"))
	out := wantOK(t, s, "stats", "-o", "json", "nginx")
	if !json.Valid([]byte(out)) || !strings.Contains(out, `"workingSetBytes": {`) {
		t.Errorf("stats -o json:\n%s", out)
	}
	wantOK(t, s, "stats", "--pod", "db", "--label", "a=b")
	reqs := s.Requests("ListContainerStats")
	filter := reqs[len(reqs)-1].(*runtimeapi.ListContainerStatsRequest).Filter
	if filter.PodSandboxId != dbPodID || filter.LabelSelector["a"] != "b" {
		t.Errorf("filter %v", filter)
	}
}

// containerStats has the use of CPU that the runtime reports, or with 0 only its
// counter.
func containerStats(id, name string, nanoCores uint64) *runtimeapi.ContainerStats {
	cpu := &runtimeapi.CpuUsage{Timestamp: 1, UsageCoreNanoSeconds: &runtimeapi.UInt64Value{Value: 7}}
	if nanoCores > 0 {
		cpu.UsageNanoCores = &runtimeapi.UInt64Value{Value: nanoCores}
	}
	return &runtimeapi.ContainerStats{
		Attributes:    &runtimeapi.ContainerAttributes{Id: id, Metadata: &runtimeapi.ContainerMetadata{Name: name}},
		Cpu:           cpu,
		Memory:        &runtimeapi.MemoryUsage{WorkingSetBytes: &runtimeapi.UInt64Value{Value: 12_345_678}, UsageBytes: &runtimeapi.UInt64Value{Value: 99_000_000}},
		WritableLayer: &runtimeapi.FilesystemUsage{UsedBytes: &runtimeapi.UInt64Value{Value: 45_056}, InodesUsed: &runtimeapi.UInt64Value{Value: 17}},
	}
}

func TestStatsOfPods(t *testing.T) {
	s := node(t)
	s.SetStats(nil, []*runtimeapi.PodSandboxStats{{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: webPodID, Metadata: &runtimeapi.PodSandboxMetadata{Name: "web-0", Namespace: "default"}},
		Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu:     &runtimeapi.CpuUsage{UsageNanoCores: &runtimeapi.UInt64Value{Value: 2_000_000_000}},
			Memory:  &runtimeapi.MemoryUsage{UsageBytes: &runtimeapi.UInt64Value{Value: 1_000_000}},
			Process: &runtimeapi.ProcessUsage{ProcessCount: &runtimeapi.UInt64Value{Value: 5}},
			Network: &runtimeapi.NetworkUsage{DefaultInterface: &runtimeapi.NetworkInterfaceUsage{
				RxBytes: &runtimeapi.UInt64Value{Value: 1500}, TxBytes: &runtimeapi.UInt64Value{Value: 42},
			}},
		},
	}})
	want(t, "stats --pods", wantOK(t, s, "stats", "--pods"), strings.TrimLeft(`
POD ID          NAME    NAMESPACE   CPU %    MEM     PROCESSES   NET RX   NET TX
1a2b3c4d5e6f0   web-0   default     200.00   1MB     5           1.5kB    42B
`, "\n"))
}

func TestStatsWatch(t *testing.T) {
	s := node(t)
	s.SetStats([]*runtimeapi.ContainerStats{containerStats(sideID, "proxy", 0)}, nil)
	inv := begin(t, s, nil, "stats", "--watch", "--interval", "1ms")
	eventually(t, "the third table", func() bool { return strings.Count(inv.out.String(), "CONTAINER ") >= 3 })
	if !strings.Contains(inv.out.String(), " 50.00 ") {
		t.Errorf("no CPU share in\n%s", inv.out.String())
	}
	inv.cancel()
	inv.wait()
	inv = begin(t, s, nil, "stats", "--watch", "--interval", "1ms", "-o", "json")
	eventually(t, "the third line", func() bool { return strings.Count(inv.out.String(), "\n") >= 3 })
	first, _, _ := strings.Cut(inv.out.String(), "\n")
	if !json.Valid([]byte(first)) {
		t.Errorf("not JSON: %s", first)
	}
	inv.cancel()
	inv.wait()
}

func TestEvents(t *testing.T) {
	s := node(t)
	event := &runtimeapi.ContainerEventResponse{
		ContainerId: webID, ContainerEventType: runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, CreatedAt: 1767323045000000007,
		PodSandboxStatus: &runtimeapi.PodSandboxStatus{Metadata: &runtimeapi.PodSandboxMetadata{Name: "web-0", Namespace: "default"}},
		ContainersStatuses: []*runtimeapi.ContainerStatus{
			{Id: sideID, Metadata: &runtimeapi.ContainerMetadata{Name: "proxy"}},
			{Id: webID, Metadata: &runtimeapi.ContainerMetadata{Name: "nginx"}, ExitCode: 137, Reason: "OOMKilled"},
		},
	}
	for format, text := range map[string]string{
		"table": "stopped  aaaa111111111  pod=default/web-0  name=nginx  exit=137  reason=OOMKilled\n",
		"json":  `"containerEventType":"CONTAINER_STOPPED_EVENT"`,
		"yaml":  "\ncontainerEventType: CONTAINER_STOPPED_EVENT\n",
	} {
		inv := begin(t, s, nil, "events", "-o", format)
		eventually(t, "the listener", func() bool { return s.Listeners() == 1 })
		s.Emit(event)
		inv.waitFor(text)
		s.Emit(nil) // the end of the stream
		if code := inv.wait(); code != 0 {
			t.Errorf("exit code %d, errors %q", code, inv.err.String())
		}
		eventually(t, "the listener's end", func() bool { return s.Listeners() == 0 })
	}
}

func TestInfo(t *testing.T) {
	s := node(t)
	want(t, "info", wantOK(t, s, "info"), strings.TrimLeft(`
Runtime:            fake 1.2.3
CRI:                v1
RuntimeReady:       yes
NetworkReady:       no (NoNetworkConfig no configuration in /etc/cni/net.d)
Handler (default):  user namespaces: true, recursive read-only mounts: false
Handler gone:       /bin/gone cannot be used: no such file
Handler runc:       /bin/runc (runc 1.5), user namespaces: false, recursive read-only mounts: false
Pods:               2 (1 ready)
Containers:         4 (2 running)
Images:             2
Image storage:      5MB in /var/lib/fake/images
Container storage:  70kB in /var/lib/fake/containers
`, "\n"))
	var data struct {
		Status struct{ Conditions []any }
		Config struct{ Root string }
	}
	if err := json.Unmarshal([]byte(wantOK(t, s, "info", "-o", "json")), &data); err != nil {
		t.Fatal(err)
	}
	if len(data.Status.Conditions) != 2 || data.Config.Root != "/var/lib/fake" {
		t.Errorf("info -o json: %+v", data)
	}
	s.Fail("Status", status.Error(codes.Internal, "broken"))
	wantFailure(t, s, 1, []string{"read status: broken"}, "info")
}

func TestVersion(t *testing.T) {
	s := fakecri.Start(t, fakecri.Options{})
	out := wantOK(t, s, "version")
	for _, line := range []string{"Version: ", "RuntimeName:        fake\n", "RuntimeVersion:     1.2.3\n", "RuntimeApiVersion:  v1\n"} {
		if !strings.Contains(out, line) {
			t.Errorf("no %q in\n%s", line, out)
		}
	}
	var v versions
	if err := json.Unmarshal([]byte(wantOK(t, s, "version", "-o", "json")), &v); err != nil || v.Runtime.Version != "1.2.3" || v.Client.Version == "" {
		t.Errorf("%+v, %v", v, err)
	}
	// Without a runtime berth's own version is shown all the same.
	s.Fail("Version", status.Error(codes.Unavailable, "no one"))
	code, out, errOut := berth(t, s, "version")
	if code != 1 || !strings.Contains(out, "GoVersion:") || !strings.Contains(errOut, "read version: no one") {
		t.Errorf("exit code %d, output %q, errors %q", code, out, errOut)
	}
	wantOK(t, s, "version", "--client")
}

func TestCompletion(t *testing.T) {
	s := node(t)
	complete := func(args ...string) []string {
		t.Helper()
		out := wantOK(t, s, append([]string{"__complete"}, args...)...)
		list := strings.Split(strings.TrimSpace(out), "\n")
		return list[:len(list)-1]
	}
	for _, test := range []struct{ args, want string }{
		{"exec |", "db/proxy\tExited in pod db;nginx\tExited in pod web-0;nginx\tRunning in pod web-0;web-0/proxy\tRunning in pod web-0"},
		{"rmp |", "db\tNotReady pod in prod;web-0\tReady pod in default"},
		{"port-forward web-0 |", ""},
		{"run |", "beef456789abc;docker.io/library/nginx:1.27;registry.local:5000/nginx:stable"},
		{"ps --state |", "created;running;exited;unknown"},
		{"pods -o |", "table;json;yaml"},
		{"ps --pod |", "db\tNotReady pod in prod;web-0\tReady pod in default"},
	} {
		args := strings.Fields(test.args)
		args[len(args)-1] = ""
		want(t, test.args, strings.Join(complete(args...), ";"), test.want)
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out := wantOK(t, s, "completion", shell); !strings.Contains(out, "berth") {
			t.Errorf("completion %s: %q", shell, out)
		}
	}
	s.Fail("ListPodSandbox", fmt.Errorf("no"))
	if got := complete("rmp", ""); len(got) != 0 {
		t.Errorf("a runtime that fails gives %q", got)
	}
}
