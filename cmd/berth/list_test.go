package main

import (
	"encoding/json"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestPodsTable(t *testing.T) {
	s := node(t)
	want(t, "pods", wantOK(t, s, "pods"), strings.TrimLeft(`
POD ID          CREATED         STATE      NAME    NAMESPACE   ATTEMPT   RUNTIME
1a2b3c4d5e6f0   3 minutes ago   Ready      web-0   default     1         (default)
1a2b999999990   2 hours ago     NotReady   db      prod        0         kata
`, "\n"))
}

func TestPodsFilters(t *testing.T) {
	s := node(t)
	for _, test := range []struct {
		args []string
		want []string
	}{
		{nil, []string{webPodID, dbPodID}},
		{[]string{"--name", "^we"}, []string{webPodID}},
		{[]string{"--namespace", "prod"}, []string{dbPodID}},
		{[]string{"--state", "NotReady"}, []string{dbPodID}},
		{[]string{"-s", "ready"}, []string{webPodID}},
		{[]string{"--label", "app=web"}, []string{webPodID}},
		{[]string{"--label", "app=web", "--label", "x=y"}, nil},
		{[]string{"--latest"}, []string{webPodID}},
		{[]string{"-n", "1"}, []string{webPodID}},
		{[]string{"--id", "1a2b9"}, []string{dbPodID}},
	} {
		out := wantOK(t, s, append([]string{"pods", "-q"}, test.args...)...)
		want(t, strings.Join(test.args, " "), out, lines(test.want))
	}
	wantFailure(t, s, 1, []string{`unknown state "up": use ready, notready`}, "pods", "--state", "up")
	wantFailure(t, s, 1, []string{`label "app" is not KEY=VALUE`}, "pods", "--label", "app")
	wantFailure(t, s, 1, []string{"--name: error parsing regexp"}, "pods", "--name", "(")
	wantFailure(t, s, 1, []string{"--last -1 is negative"}, "pods", "-n", "-1")
}

func lines(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return strings.Join(list, "\n") + "\n"
}

func TestPsTable(t *testing.T) {
	s := node(t)
	want(t, "ps", wantOK(t, s, "ps"), strings.TrimLeft(`
CONTAINER       IMAGE                          CREATED         STATE     NAME    ATTEMPT   POD ID          POD     NAMESPACE
aaaa111111111   docker.io/library/nginx:1.27   2 minutes ago   Running   nginx   1         1a2b3c4d5e6f0   web-0   default
bbbb222222222   proxy:2                        3 minutes ago   Running   proxy   0         1a2b3c4d5e6f0   web-0   default
`, "\n"))
	all := wantOK(t, s, "ps", "-a")
	if !strings.Contains(all, "aaaa000000000   feed456789abc ") || strings.Count(all, "\n") != 5 {
		t.Errorf("ps -a:\n%s", all)
	}
	long := wantOK(t, s, "ps", "-a", "--no-trunc")
	for _, id := range []string{webID, sideID, webPodID, strings.TrimPrefix(imageID, "sha256:")} {
		if !strings.Contains(long, id) {
			t.Errorf("ps --no-trunc shows no %s:\n%s", id, long)
		}
	}
}

func TestPsFilters(t *testing.T) {
	s := node(t)
	for _, test := range []struct {
		args []string
		want []string
	}{
		{nil, []string{webID, sideID}},
		{[]string{"--name", "prox"}, []string{sideID}},
		{[]string{"--state", "exited"}, []string{oldWebID, dbSideID}},
		{[]string{"--pod", "db", "-a"}, []string{dbSideID}},
		{[]string{"--pod", "prod/db", "-a"}, []string{dbSideID}},
		{[]string{"--image", "docker.io/library/nginx:1.27", "-a"}, []string{webID, oldWebID}},
		{[]string{"--label", "tier=front"}, []string{webID}},
		{[]string{"-l"}, []string{webID}},
	} {
		out := wantOK(t, s, append([]string{"ps", "-q"}, test.args...)...)
		want(t, strings.Join(test.args, " "), sorted(out), sorted(lines(test.want)))
	}
	wantFailure(t, s, 1, []string{`no pod "nope"`, "hint: `berth pods` lists all pods"}, "ps", "--pod", "nope")
	wantFailure(t, s, 1, []string{`no image "nope"`}, "ps", "--image", "nope")
}

func sorted(text string) string {
	list := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	return strings.Join(unique(list), "\n")
}

func TestListsAsData(t *testing.T) {
	s := node(t)
	for _, test := range []struct {
		args  []string
		list  string
		count int
		field string
	}{
		{[]string{"pods"}, "items", 2, "createdAt"},
		{[]string{"ps", "-a"}, "containers", 4, "podSandboxId"},
		{[]string{"images"}, "images", 2, "repoTags"},
	} {
		for _, format := range []string{"json", "yaml"} {
			out := []byte(wantOK(t, s, append(test.args, "-o", format)...))
			if format == "json" && !json.Valid(out) {
				t.Fatalf("%v: not JSON: %s", test.args, out)
			}
			var data map[string][]map[string]any
			if err := yaml.Unmarshal(out, &data); err != nil {
				t.Fatal(err)
			}
			if len(data[test.list]) != test.count {
				t.Errorf("%v -o %s: %d %s, want %d", test.args, format, len(data[test.list]), test.list, test.count)
				continue
			}
			if _, ok := data[test.list][0][test.field]; !ok {
				t.Errorf("%v -o %s: no field %s in %v", test.args, format, test.field, data[test.list][0])
			}
		}
	}
	out := wantOK(t, s, "pods", "--name", "db", "-o", "yaml")
	if !strings.HasPrefix(out, "items:\n- annotations: {}\n") || !strings.Contains(out, "\n  state: SANDBOX_NOTREADY\n") {
		t.Errorf("yaml:\n%s", out)
	}
	wantFailure(t, s, 1, []string{`unknown output format "xml": use table, json, yaml`}, "pods", "-o", "xml")
}

func TestImagesTable(t *testing.T) {
	s := node(t)
	want(t, "images", wantOK(t, s, "images"), strings.TrimLeft(`
IMAGE                       TAG      IMAGE ID        SIZE
docker.io/library/nginx     1.27     feed456789abc   71.2MB
registry.local:5000/nginx   stable   feed456789abc   71.2MB
registry.local:5000/old     <none>   beef456789abc   512B
`, "\n"))
	want(t, "images --digests of one", wantOK(t, s, "images", "--digests", "docker.io/library/nginx:1.27"), strings.TrimLeft(`
IMAGE                       TAG      DIGEST          IMAGE ID        SIZE
docker.io/library/nginx     1.27     abcdef0123456   feed456789abc   71.2MB
registry.local:5000/nginx   stable   <none>          feed456789abc   71.2MB
`, "\n"))
	want(t, "images -q", wantOK(t, s, "images", "-q", "docker.io/library/nginx:1.27"), imageID+"\n")
}
