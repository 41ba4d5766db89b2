package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
)

func TestServesTheImageThatItNames(t *testing.T) {
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	stdout := os.Stdout
	os.Stdout = in
	defer func() { os.Stdout = stdout }()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serve(ctx)
		in.Close()
	}()
	name, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%v; serve: %v", err, <-ended)
	}
	host, rest, _ := strings.Cut(strings.TrimSpace(name), "/")
	repository, tag, _ := strings.Cut(rest, ":")
	if !strings.HasPrefix(host, "127.0.0.1:") {
		t.Errorf("it listens on %s, beyond loopback", host)
	}
	resp, err := http.Get("http://" + host + "/v2/" + repository + "/manifests/" + tag)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `"layers"`) {
		t.Errorf("%s: %s %q, %v", name, resp.Status, body, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
