package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestCheckRedirect(t *testing.T) {
	for _, c := range []struct {
		from, to string
		ok       bool
	}{
		{"https://registry.example/v2/", "https://storage.example/x", true},
		{"https://registry.example/v2/", "https://10.1.2.3/x", true},
		{"https://registry.example/v2/", "http://storage.example/x", false},
		{"http://registry.example/v2/", "https://storage.example/x", true},
		{"http://registry.example/v2/", "http://storage.example/x", true},
		{"http://registry.example/v2/", "http://169.254.169.254/latest/meta-data", false},
		{"http://registry.example/v2/", "http://127.0.0.1:10250/", false},
		{"http://registry.example/v2/", "http://localhost/", false},
		{"http://registry.example/v2/", "http://[::1]/", false},
		{"http://registry.example/v2/", "http://0.0.0.0/", false},
		{"http://127.0.0.1:5000/v2/", "http://127.0.0.1:6000/x", true},
		{"http://localhost:5000/v2/", "http://127.0.0.1:6000/x", true},
	} {
		from, to := &http.Request{URL: mustURL(t, c.from)}, &http.Request{URL: mustURL(t, c.to)}
		if err := checkRedirect(to, []*http.Request{from}); (err == nil) != c.ok {
			t.Errorf("%s to %s: %v", c.from, c.to, err)
		}
	}
	first := &http.Request{URL: mustURL(t, "https://a.example/")}
	if err := checkRedirect(first, make10(first)); err == nil {
		t.Error("endless redirects are followed")
	}
}

func make10(r *http.Request) []*http.Request {
	var via []*http.Request
	for range maxRedirects {
		via = append(via, r)
	}
	return via
}

func mustURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestRetryAfter(t *testing.T) {
	for in, want := range map[string]time.Duration{"": 0, "0": 0, "7": 7 * time.Second, "-1": 0, "soon": 0, "Mon, 02 Jan 2006 15:04:05 GMT": 0} {
		if got := retryAfter(in); got != want {
			t.Errorf("%q: %s", in, got)
		}
	}
	if got := retryAfter(time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)); got < 59*time.Minute || got > time.Hour {
		t.Errorf("a date in an hour: %s", got)
	}
	if got := retryAfter("99999999999"); got <= 0 {
		t.Errorf("a very long time: %s", got)
	}
}

func TestKinds(t *testing.T) {
	answer := func(status int) error {
		resp := &http.Response{StatusCode: status, Status: fmt.Sprint(status, " ", http.StatusText(status)), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"errors":[{"code":"CODE","message":"text"}]}`))}
		return checkStatus(resp, http.StatusOK)
	}
	for name, c := range map[string]struct {
		err       error
		kind      error
		transient bool
	}{
		"not found":       {answer(404), errdefs.ErrNotFound, false},
		"unauthorized":    {answer(401), errdefs.ErrUnauthenticated, false},
		"forbidden":       {answer(403), errdefs.ErrPermissionDenied, false},
		"too many":        {answer(429), ErrUnavailable, true},
		"unavailable":     {answer(503), ErrUnavailable, true},
		"teapot":          {answer(418), errdefs.ErrInvalidArgument, false},
		"reset":           {requestError(&net.OpError{Op: "read", Err: syscall.ECONNRESET}), ErrUnavailable, true},
		"refused":         {requestError(&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}), ErrUnavailable, false},
		"cut":             {requestError(io.ErrUnexpectedEOF), ErrUnavailable, true},
		"no such host":    {requestError(&net.DNSError{Err: "no such host", IsNotFound: true}), ErrUnavailable, false},
		"DNS is busy":     {requestError(&net.DNSError{Err: "busy", IsTemporary: true}), ErrUnavailable, true},
		"dial timeout":    {requestError(&net.OpError{Op: "dial", Err: syscall.ETIMEDOUT}), ErrUnavailable, false},
		"canceled":        {requestError(context.Canceled), context.Canceled, false},
		"stalled":         {errStalled, ErrUnavailable, false},
		"success is fine": {answer(200), nil, false},
	} {
		if !errors.Is(c.err, c.kind) && c.err != c.kind {
			t.Errorf("%s: %v is not %v", name, c.err, c.kind)
		}
		if c.err != nil && transient(c.err) != c.transient {
			t.Errorf("%s: transient is %v", name, !c.transient)
		}
	}
	if err := answer(404); err.Error() != "404 Not Found: CODE text" {
		t.Errorf("%q", err)
	}
}

func TestHostsErrorHasTheKindOfTheRegistry(t *testing.T) {
	err := fmt.Errorf("x: %w", &HostsError{Tried: []HostError{{Host: "mirror", Err: ErrUnavailable}, {Host: "registry", Err: errdefs.ErrNotFound}}})
	if !errors.Is(err, errdefs.ErrNotFound) || errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	if err.Error() != "x: mirror: registry is unavailable; registry: not found" {
		t.Error(err)
	}
}
