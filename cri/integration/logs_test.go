package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestLogs(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run(shell(`echo first; echo second >&2; echo; printf 'no end of line'`))
	c.wait()
	lines := c.log()
	for i := 1; i < len(lines); i++ {
		if lines[i].stream == lines[i-1].stream && lines[i].time.Before(lines[i-1].time) {
			t.Errorf("line %d is older than the one before", i)
		}
	}
	same(t, "stderr", c.logText("stderr"), "second\n")
	same(t, "stdout", strings.TrimSuffix(c.logText("stdout"), "\n"), "first\n\nno end of line")
	info, err := os.Stat(c.logFile())
	if err != nil || info.Mode().Perm()&0o007 != 0 && info.Mode().Perm() != 0o644 && info.Mode().Perm() != 0o640 {
		t.Errorf("the log's mode: %v, %v", info.Mode(), err)
	}
}

// A long line comes in pieces of 16 KiB, and whole.
func TestLongLines(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run(shell(`head -c 100000 /dev/zero | tr '\0' x; echo; echo short`))
	c.wait()
	lines := c.log()
	same(t, "lines", len(lines), 8)
	for i, l := range lines {
		if len(l.text) > 16<<10 {
			t.Errorf("line %d has %d bytes", i, len(l.text))
		}
		same(t, fmt.Sprintf("tag of line %d", i), l.partial, i < 6)
	}
	same(t, "all of it", c.logText(), strings.Repeat("x", 100000)+"\nshort\n")
}

func TestLogOfATerminal(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run(shell("echo out; echo err >&2; tty"), func(c *runtimeapi.ContainerConfig) { c.Tty = true })
	c.wait()
	same(t, "merged", strings.ReplaceAll(c.logText("stdout"), "\r", ""), "out\nerr\n/dev/pts/0\n")
	same(t, "stderr", c.logText("stderr"), "")
}

// The rotation of a log loses nothing and repeats nothing while the container
// writes.
func TestReopenedLogs(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run(shell(`trap 'echo end; exit' TERM; i=0; while :; do echo line $i; i=$((i+1)); done`))
	var all []string
	for i := range 20 {
		old := fmt.Sprintf("%s.%d", c.logFile(), i)
		if err := os.Rename(c.logFile(), old); err != nil {
			t.Fatal(err)
		}
		if err := shared.runtime.ReopenContainerLog(t.Context(), c.id); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a line is in the new log", func() bool {
			info, err := os.Stat(c.logFile())
			return err == nil && info.Size() > 0
		})
		all = append(all, texts(parseLog(t, old))...)
	}
	c.stop(int64(patience.Seconds()))
	all = append(all, texts(c.log())...)
	last := len(all) - 1
	same(t, "the last line", all[last], "end")
	for i, line := range all[:last] {
		if line != fmt.Sprintf("line %d", i) {
			t.Fatalf("line %d of all logs is %q", i, line)
		}
	}
}

func texts(lines []logLine) []string {
	all := make([]string, len(lines))
	for i, l := range lines {
		all[i] = l.text
	}
	return all
}

func TestReopenTheLogOfWhatDoesNotRun(t *testing.T) {
	p := runPod(t, hostNetwork)
	c := p.run(command("true"))
	c.wait()
	if err := os.Remove(c.logFile()); err != nil {
		t.Fatal(err)
	}
	if err := shared.runtime.ReopenContainerLog(t.Context(), c.id); err != nil {
		if _, statErr := os.Stat(c.logFile()); statErr == nil {
			t.Errorf("reopen: %v, and the file was made", err)
		}
	}
}

func TestWithoutALog(t *testing.T) {
	p := runPod(t, hostNetwork, func(c *runtimeapi.PodSandboxConfig) { c.LogDirectory = "" })
	c := p.run(shell("yes | head -c 1000000; exit 4"))
	same(t, "exit code", c.wait().ExitCode, 4)
}
