package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// slowDaemon is a daemon whose pods wait in ADD of a plugin until gate exists.
func slowDaemon(t *testing.T) (d *daemon, gate string) {
	t.Helper()
	d = ownDaemon(t, "")
	gate = filepath.Join(t.TempDir(), "gate")
	plugins := filepath.Join(d.Dir, "plugins")
	if err := os.MkdirAll(plugins, 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf(`#!/bin/sh
config=$(cat)
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}';;
ADD) touch %[1]s.reached; while ! test -e %[1]s; do sleep 0.02; done; echo '{"cniVersion":"1.0.0","ips":[{"address":"10.99.0.5/24"}]}';;
DEL) touch %[1]s.deleted;;
esac
`, gate)
	if err := os.WriteFile(filepath.Join(plugins, "slow"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	d.end(t, 15)
	write(t, filepath.Join(d.Dir, "berthd.yaml"), fmt.Sprintf("apiVersion: berth.dev/v1alpha1\nkind: BerthConfiguration\nnetwork:\n  confDirs: [%s]\n  binDirs: [%s]\n  timeout: 10m\n", d.NetworkDir(), plugins))
	write(t, filepath.Join(d.NetworkDir(), "10-test.conflist"), `{"cniVersion":"1.0.0","name":"slow","plugins":[{"type":"slow"}]}`)
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d, gate
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestRunPodSandboxJoins(t *testing.T) {
	d, gate := slowDaemon(t)
	config := podConfig(t)
	var calls sync.WaitGroup
	ids, errs := make([]string, 5), make([]error, 5)
	for i := range ids {
		calls.Go(func() { ids[i], errs[i] = d.runtime.RunPodSandbox(t.Context(), config, "") })
	}
	eventually(t, "the network is being set up", func() bool { return exists(gate + ".reached") })
	// One that is still being made is not listed.
	if pods, err := d.runtime.ListPodSandbox(t.Context(), nil); err != nil || len(pods) != 0 {
		t.Errorf("pods: %v, %v", pods, err)
	}
	write(t, gate, "")
	calls.Wait()
	for i := range ids {
		if errs[i] != nil || ids[i] == "" || ids[i] != ids[0] {
			t.Errorf("call %d: %q, %v", i, ids[i], errs[i])
		}
	}
	if pods, err := d.runtime.ListPodSandbox(t.Context(), nil); err != nil || len(pods) != 1 {
		t.Errorf("pods: %v, %v", pods, err)
	}
	_, err := d.runtime.RunPodSandbox(t.Context(), config, "")
	wantCode(t, "a call after all have their answer", err, alreadyExists)
	config.Metadata.Attempt++
	if id, err := d.runtime.RunPodSandbox(t.Context(), config, ""); err != nil || id == ids[0] {
		t.Errorf("the next attempt: %q, %v", id, err)
	}
}

// A caller that went away gets the result of what it began when it comes back.
func TestRunPodSandboxOutlivesItsCaller(t *testing.T) {
	d, gate := slowDaemon(t)
	config := podConfig(t)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := d.runtime.RunPodSandbox(ctx, config, "")
		gone <- err
	}()
	eventually(t, "the network is being set up", func() bool { return exists(gate + ".reached") })
	cancel()
	if err := <-gone; err == nil {
		t.Error("a call that was given up succeeded")
	}
	write(t, gate, "")
	id, err := d.runtime.RunPodSandbox(t.Context(), config, "")
	if err != nil {
		t.Fatalf("the retry: %v", err)
	}
	if pods, err := d.runtime.ListPodSandbox(t.Context(), nil); err != nil || len(pods) != 1 || pods[0].Id != id {
		t.Errorf("pods: %v, %v", pods, err)
	}
	if exists(gate + ".deleted") {
		t.Error("the network was given back")
	}
}

// What is begun while berthd is killed is undone at its next start.
func TestKillWhileAPodIsMade(t *testing.T) {
	d, gate := slowDaemon(t)
	go d.runtime.RunPodSandbox(context.Background(), podConfig(t), "")
	eventually(t, "the network is being set up", func() bool { return exists(gate + ".reached") })
	if err := d.Stop(9); err != nil {
		t.Fatal(err)
	}
	if err := d.disconnect(); err != nil {
		t.Fatal(err)
	}
	write(t, gate, "")
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the network is given back", func() bool { return exists(gate + ".deleted") })
	eventually(t, "nothing is left", func() bool {
		mounts, err := d.Mounts()
		if err != nil {
			t.Fatal(err)
		}
		var pins []string
		for _, m := range mounts {
			if strings.Contains(m, "/sandboxes/") {
				pins = append(pins, m)
			}
		}
		return len(pins) == 0 && len(filesOf(t, d)) == 0
	})
}

func TestCreateContainerJoins(t *testing.T) {
	p := runPod(t, hostNetwork)
	config := p.containerConfig()
	var calls sync.WaitGroup
	ids, errs := make([]string, 8), make([]error, 8)
	for i := range ids {
		calls.Go(func() { ids[i], errs[i] = shared.runtime.CreateContainer(t.Context(), p.id, config, p.config) })
	}
	calls.Wait()
	var first string
	for i, err := range errs {
		switch {
		case err == nil && first == "":
			first = ids[i]
		case err == nil:
			same(t, "ID", ids[i], first)
		default: // it came when the first had its answer already
			wantCode(t, "a late call", err, alreadyExists)
		}
	}
	list, err := shared.runtime.ListContainers(t.Context(), &runtimeapi.ContainerFilter{PodSandboxId: p.id})
	if err != nil || len(list) != 1 || list[0].Id != first {
		t.Errorf("containers: %v, %v", list, err)
	}
}

// Lists never wait for a pod.
func TestListsDoNotWait(t *testing.T) {
	d, gate := slowDaemon(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.runtime.RunPodSandbox(context.Background(), podConfig(t), "")
	}()
	eventually(t, "the network is being set up", func() bool { return exists(gate + ".reached") })
	ctx, cancel := context.WithTimeout(t.Context(), answerLimit)
	defer cancel()
	if _, err := d.runtime.ListPodSandbox(ctx, nil); err != nil {
		t.Errorf("ListPodSandbox: %v", err)
	}
	if _, err := d.runtime.ListContainers(ctx, nil); err != nil {
		t.Errorf("ListContainers: %v", err)
	}
	if _, err := d.runtime.Status(ctx, true); err != nil {
		t.Errorf("Status: %v", err)
	}
	write(t, gate, "")
	<-done
}
