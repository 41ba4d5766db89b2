package output

import (
	"bytes"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestData(t *testing.T) {
	m := &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_NOTREADY}
	for format, want := range map[Format]string{
		JSON: "{\n  \"state\": \"SANDBOX_NOTREADY\"\n}\n",
		YAML: "state: SANDBOX_NOTREADY\n",
	} {
		var b bytes.Buffer
		if err := Data(&b, format, m); err != nil || b.String() != want {
			t.Errorf("%s: %q, %v", format, b.String(), err)
		}
	}
	var b bytes.Buffer
	if err := Data(&b, JSON, map[string]string{"a": "<&>"}); err != nil || b.String() != "{\n  \"a\": \"<&>\"\n}\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
	b.Reset()
	if err := Line(&b, m); err != nil || b.String() != "{\"state\":\"SANDBOX_NOTREADY\"}\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}

func TestZeroValuesAreShown(t *testing.T) {
	raw, err := Proto(&runtimeapi.PodSandboxStateValue{})
	if err != nil || string(raw) != `{"state":"SANDBOX_READY"}` {
		t.Errorf("%s, %v", raw, err)
	}
}

func TestAgo(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for d, want := range map[time.Duration]string{
		0: "Less than a second ago", 90 * time.Second: "About a minute ago", 49 * time.Hour: "2 days ago",
	} {
		if got := Ago(now, now.Add(-d)); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
	for _, never := range []time.Time{{}, time.Unix(0, 0)} {
		if got := Ago(now, never); got != "-" {
			t.Errorf("%v: %q", never, got)
		}
	}
}

func TestInfo(t *testing.T) {
	info := Info(map[string]string{"json": "{\"a\":9007199254740993,\"b\":\"\\u003e\"}", "text": "plain"})
	var b bytes.Buffer
	if err := Data(&b, YAML, info); err != nil || b.String() != "json:\n  a: 9007199254740993\n  b: '>'\ntext: plain\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
	if Info(nil) != nil {
		t.Error("no info is not nil")
	}
}
