package monitoring

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func start(t *testing.T, pprof bool) (url string, health *Health) {
	t.Helper()
	registry, health := prometheus.NewRegistry(), &Health{}
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "berth_tests_total"})
	counter.Inc()
	registry.MustRegister(counter)
	s, err := Listen(context.Background(), "127.0.0.1:0", Options{
		Metrics: registry, Health: health, Pprof: pprof, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + s.Addr().String(), health
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestMetrics(t *testing.T) {
	url, _ := start(t, false)
	if code, body := get(t, url+"/metrics"); code != 200 || !strings.Contains(body, "berth_tests_total 1") {
		t.Errorf("%d %s", code, body)
	}
}

func TestPprof(t *testing.T) {
	for _, on := range []bool{true, false} {
		url, _ := start(t, on)
		want := map[bool]int{true: 200, false: 404}[on]
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine", "/debug/pprof/cmdline", "/debug/pprof/symbol"} {
			if code, _ := get(t, url+path); code != want {
				t.Errorf("pprof %v: %s answers %d", on, path, code)
			}
		}
	}
}

func TestHealthz(t *testing.T) {
	url, health := start(t, false)
	health.Add("good", func(context.Context) error { return nil })
	if code, body := get(t, url+"/healthz"); code != 503 || body != "[-] serving: not serving\n[+] good: ok\n" {
		t.Errorf("before serving: %d %q", code, body)
	}
	health.SetServing(true)
	if code, body := get(t, url+"/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("serving: %d %q", code, body)
	}
	if code, body := get(t, url+"/healthz?verbose"); code != 200 || body != "[+] serving: ok\n[+] good: ok\n" {
		t.Errorf("verbose: %d %q", code, body)
	}
	health.Add("bad", func(context.Context) error { return errors.New("broken") })
	if code, body := get(t, url+"/healthz"); code != 503 || body != "[+] serving: ok\n[+] good: ok\n[-] bad: broken\n" {
		t.Errorf("with a failing check: %d %q", code, body)
	}
	if err := health.Check(context.Background()); err == nil || err.Error() != "bad: broken" {
		t.Errorf("error is %v", err)
	}
}

// A check that hangs fails in time, and is not started again while it hangs.
func TestCheckThatHangs(t *testing.T) {
	var health Health
	health.SetServing(true)
	release, started := make(chan struct{}), make(chan struct{}, 100)
	health.Add("hanging", func(context.Context) error {
		started <- struct{}{}
		<-release
		return nil
	})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if err := health.Check(ctx); err == nil || !strings.Contains(err.Error(), "hanging: no answer") {
				t.Errorf("error is %v", err)
			}
		})
	}
	wg.Wait()
	<-started
	if len(started) != 0 {
		t.Errorf("the check was started %d times more", len(started))
	}
	close(release)
	if err := health.Check(context.Background()); err != nil {
		t.Errorf("after it came back: %v", err)
	}
}

func TestAddressInUse(t *testing.T) {
	opts := Options{Metrics: prometheus.NewRegistry(), Health: &Health{}, Logger: slog.New(slog.DiscardHandler)}
	first, err := Listen(context.Background(), "127.0.0.1:0", opts)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := Listen(context.Background(), first.Addr().String(), opts); err == nil ||
		!strings.Contains(err.Error(), first.Addr().String()) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("error is %v", err)
	}
}
