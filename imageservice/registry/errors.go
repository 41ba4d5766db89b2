package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// ErrUnavailable marks that a host could not be reached or could not answer: it
// is about the registry, not about the image.
var ErrUnavailable = errors.New("registry is unavailable")

// errStalled marks a transfer that made too little progress.
var errStalled = fmt.Errorf("transfer stalled: %w", ErrUnavailable)

// HostError is what one host answered.
type HostError struct {
	Host string
	Err  error
}

// HostsError tells of every host that was tried. Its kind is that of the last
// one, which is the registry itself: mirrors come before it.
type HostsError struct{ Tried []HostError }

func (e *HostsError) Error() string {
	var parts []string
	for _, t := range e.Tried {
		parts = append(parts, t.Host+": "+t.Err.Error())
	}
	return strings.Join(parts, "; ")
}

func (e *HostsError) Unwrap() error { return e.Tried[len(e.Tried)-1].Err }

// statusError is an answer that is not a success.
type statusError struct {
	status     int
	text       string
	retryAfter time.Duration
}

func (e *statusError) Error() string { return e.text }

func (e *statusError) Unwrap() error {
	switch {
	case e.status == http.StatusNotFound:
		return errdefs.ErrNotFound
	case e.status == http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case e.status == http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case e.status == http.StatusTooManyRequests || e.status == http.StatusRequestTimeout || e.status >= 500:
		return ErrUnavailable
	}
	return errdefs.ErrInvalidArgument
}

// maxErrorText bounds what of a registry's answer gets into messages.
const maxErrorText = 512

// checkStatus turns answers that are not wanted into errors, and closes their
// bodies.
func checkStatus(resp *http.Response, want ...int) error {
	for _, w := range want {
		if resp.StatusCode == w {
			return nil
		}
	}
	defer resp.Body.Close()
	se := &statusError{status: resp.StatusCode, retryAfter: retryAfter(resp.Header.Get("Retry-After"))}
	var te *transport.Error
	text := ""
	if errors.As(transport.CheckError(resp), &te) {
		for _, d := range te.Errors {
			text += ": " + string(d.Code) + " " + d.Message
		}
	}
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "…"
	}
	se.text = resp.Status + strings.TrimRight(text, " ")
	return se
}

// retryAfter reads seconds or a date.
func retryAfter(s string) time.Duration {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 {
		return time.Duration(min(n, 1<<20)) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}

// requestError gives errors below HTTP their kind.
func requestError(err error) error {
	var te *transport.Error
	if errors.As(err, &te) {
		// The token server's answer, or the registry's to the log-in.
		return &statusError{status: te.StatusCode, text: "log in: " + te.Error()}
	}
	var se *statusError
	if errors.Is(err, context.Canceled) || isCertificateError(err) || errors.As(err, &se) {
		return err
	}
	return fmt.Errorf("%w: %w", err, ErrUnavailable)
}

func isCertificateError(err error) bool {
	var cve *tls.CertificateVerificationError
	var ua x509.UnknownAuthorityError
	var hn x509.HostnameError
	return errors.As(err, &cve) || errors.As(err, &ua) || errors.As(err, &hn)
}

// transient tells whether the same host may do better if it is asked again.
func transient(err error) bool {
	var se *statusError
	if errors.As(err, &se) {
		return errors.Is(se, ErrUnavailable)
	}
	if errors.Is(err, errStalled) {
		return false // it has had its time
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return dns.IsTemporary && !dns.IsNotFound
	}
	if errors.Is(err, syscall.ECONNREFUSED) || isTimeout(err) || isCertificateError(err) {
		return false
	}
	return errors.Is(err, ErrUnavailable) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
