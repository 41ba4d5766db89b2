package main

import (
	"strings"
	"testing"
)

func TestMetrics(t *testing.T) {
	s := node(t)
	want(t, "one pod", wantOK(t, s, "metrics", "--pod", "db"), `# HELP cpu Seconds.
# TYPE cpu counter
cpu{pod="db",container="a\"b"} 7
# HELP memory Bytes.
# TYPE memory gauge
memory{pod="db",container=""} 100
`)
	all := wantOK(t, s, "metrics", "memory")
	if strings.Count(all, "# TYPE") != 1 || strings.Count(all, "memory{") < 2 {
		t.Errorf("the memory of all pods:\n%s", all)
	}
	wantFailure(t, s, 1, []string{`no metric "nope"`}, "metrics", "nope")
	wantFailure(t, s, 1, []string{`"nope"`}, "metrics", "--pod", "nope")
}
