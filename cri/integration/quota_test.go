package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

// quotaFS mounts a new file system with project quota. It is false where the kernel
// cannot, which the virtual machine's does (hack/vm/guest/suite).
func quotaFS(t *testing.T, kind string, mkfs ...string) (dir string, ok bool) {
	t.Helper()
	base := shortDir(t)
	device, dir := filepath.Join(base, "device"), filepath.Join(base, "fs")
	writeFile(t, device, "")
	if err := os.Truncate(device, 512<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{append(mkfs, device), {"mount", "-t", kind, "-o", "loop,prjquota", device, dir}} {
		out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
		if err == nil {
			continue
		}
		if os.Getenv("BERTH_TEST_PROJECT_QUOTA") != "" {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
		t.Logf("no %s with project quota here: %s", kind, out)
		return "", false
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir, true
}

// What a container writes is counted and limited by the file system, and neither by what
// others write nor by berthd's life.
func TestWritableLimit(t *testing.T) {
	for kind, mkfs := range map[string][]string{
		"ext4": {"mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota"},
		"xfs":  {"mkfs.xfs", "-q"},
	} {
		t.Run(kind, func(t *testing.T) {
			if dir, ok := quotaFS(t, kind, mkfs...); ok {
				testWritableLimit(t, dir)
			}
		})
	}
}

func testWritableLimit(t *testing.T, fs string) {
	const limit = 4 << 20
	d := ownDaemon(t, fmt.Sprintf("runtime: {writableDir: %s, writableLimit: %d, projectIDs: {count: 3}}\n", fs+"/writable", limit))
	d.pull(t, busybox)
	p := d.runPod(t)
	run := func() *ctr { return p.run(shell("sleep 1000")) }
	full, beside := run(), run()
	same(t, "kilobytes that df tells", full.sh("df -k / | awk 'END {print $2}'"), "4096")
	full.fills(limit)
	usage := full.counted(t, "what it has written", func(bytes, inodes uint64) bool { return bytes > limit*9/10 })
	if usage > limit {
		t.Errorf("%d bytes are counted, the limit is %d", usage, limit)
	}
	beside.sh("head -c 3000000 /dev/zero > /mine")

	d.restart(t, syscall.SIGKILL)
	full.counted(t, "what it has written before the restart", func(bytes, _ uint64) bool { return bytes == usage })
	full.fills(limit)
	after := run()
	after.sh("head -c 2000000 /dev/zero > /mine; for i in $(seq 100); do touch /$i; done")
	after.counted(t, "its files", func(bytes, inodes uint64) bool { return bytes >= 2000000 && bytes < 3000000 && inodes > 100 })

	_, err := p.tryCreate(shell("true"))
	wantCode(t, "a container without a project ID", err, codes.ResourceExhausted)
	if err := d.runtime.RemoveContainer(t.Context(), beside.id); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ID of a container that was removed is free", func() bool {
		_, err = p.tryCreate(shell("true"))
		return err == nil
	})

	full.sh("rm /big")
	full.counted(t, "nothing any more", func(bytes, _ uint64) bool { return bytes < limit/10 })
	full.sh("head -c 3000000 /dev/zero > /big")
}

// fills writes to the root file system until it is refused.
func (c *ctr) fills(limit int64) {
	c.t.Helper()
	got := c.sh("dd if=/dev/zero bs=64k count=320 2>&1 >> /big && echo all was written; true")
	if !strings.Contains(got, "uota exceeded") && !strings.Contains(got, "No space left") {
		c.t.Errorf("written beyond the limit: %s", got)
	}
	if size := atoi(c.t, c.sh("stat -c %s /big")); size > limit || size < limit*9/10 {
		c.t.Errorf("%d bytes were written, the limit is %d", size, limit)
	}
}

// counted waits until the container's statistics tell what is expected, and returns the bytes.
func (c *ctr) counted(t *testing.T, what string, expected func(bytes, inodes uint64) bool) (bytes uint64) {
	t.Helper()
	eventually(t, what, func() bool {
		s, err := c.pod.d.runtime.ContainerStats(t.Context(), c.id)
		if err != nil {
			t.Fatal(err)
		}
		bytes = s.GetWritableLayer().GetUsedBytes().GetValue()
		return expected(bytes, s.GetWritableLayer().GetInodesUsed().GetValue())
	})
	return bytes
}

// A limit that would not hold is not taken for one.
func TestWritableLimitWithoutQuota(t *testing.T) {
	d, err := layOut(shortDir(t), "runtime: {writableLimit: 104857600}\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(d.Root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", d.Root, "tmpfs", 0, "mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(d.Root, 0); err != nil {
			t.Error(err)
		}
	})
	if err := d.start(t.Context()); err == nil || !strings.Contains(err.Error(), "prjquota") {
		t.Errorf("berthd with a limit that does not hold: %v", err)
	}
}
