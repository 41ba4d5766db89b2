package integration

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fill takes all room of a file system; the returned function gives it back.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	path := filepath.Join(dir, "fill")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for err == nil {
		_, err = file.Write(make([]byte, 4096))
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// What needs room is refused by its name and leaves nothing; what gives room back
// needs none, and what runs goes on.
func TestPodsOnAFullDisk(t *testing.T) {
	d, err := layOut(shortDir(t), "")
	if err != nil {
		t.Fatal(err)
	}
	logs := filepath.Join(d.Dir, "logs")
	for dir, size := range map[string]string{d.Root: "16m", d.State: "4m", logs: "64k"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := d.close(); err != nil {
			t.Error(err)
		}
	})
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.pull(t, busybox)

	inLogs := podConfig(t)
	inLogs.LogDirectory = filepath.Join(logs, "pod")
	pod, err := d.runtime.RunPodSandbox(t.Context(), inLogs, "")
	if err != nil {
		t.Fatal(err)
	}
	create := func(name string, command ...string) (string, error) {
		return d.runtime.CreateContainer(t.Context(), pod, &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: busybox},
			Command: command, LogPath: name + ".log",
		}, inLogs)
	}
	// A container is not held up by a log that cannot be written.
	writer, err := create("writer", "sh", "-c", "yes | head -c 1000000; touch /wrote; exec sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	waiting, err := create("waiting", "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.runtime.StartContainer(t.Context(), writer); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the container has written more than its log takes", func() bool {
		_, _, err := d.runtime.ExecSync(t.Context(), writer, []string{"test", "-e", "/wrote"}, time.Minute)
		return err == nil
	})

	empty := fill(t, d.State)
	wantCode(t, "StartContainer", d.runtime.StartContainer(t.Context(), waiting), codes.ResourceExhausted)
	_, err = d.runtime.RunPodSandbox(t.Context(), podConfig(t), "")
	wantCode(t, "RunPodSandbox without room for state", err, codes.ResourceExhausted)
	empty()

	empty = fill(t, d.Root)
	defer empty()
	_, err = d.runtime.RunPodSandbox(t.Context(), podConfig(t), "")
	wantCode(t, "RunPodSandbox", err, codes.ResourceExhausted)
	_, err = create("late", "sleep", "1000")
	wantCode(t, "CreateContainer", err, codes.ResourceExhausted)
	if _, _, err := d.runtime.ExecSync(t.Context(), writer, []string{"true"}, time.Minute); err != nil {
		t.Errorf("exec: %v", err)
	}
	for _, id := range []string{writer, waiting} {
		if err := d.runtime.StopContainer(t.Context(), id, 0); err != nil {
			t.Error(err)
		}
		if err := d.runtime.RemoveContainer(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if err := d.runtime.StopPodSandbox(t.Context(), pod); err != nil {
		t.Error(err)
	}
	if err := d.runtime.RemovePodSandbox(t.Context(), pod); err != nil {
		t.Error(err)
	}
	if left := filesOf(t, d); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if left := addresses(t, d.IPAMDir()); len(left) > 0 {
		t.Errorf("addresses are left: %q", left)
	}
}
