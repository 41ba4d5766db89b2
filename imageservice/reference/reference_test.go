package reference

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

const hex64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"busybox":                               "docker.io/library/busybox:latest",
		"busybox:1.36":                          "docker.io/library/busybox:1.36",
		"user/app":                              "docker.io/user/app:latest",
		"docker.io/busybox":                     "docker.io/library/busybox:latest",
		"index.docker.io/busybox":               "docker.io/library/busybox:latest",
		"localhost/app":                         "localhost/app:latest",
		"localhost:5000/a/b:t":                  "localhost:5000/a/b:t",
		"127.0.0.1:5000/a":                      "127.0.0.1:5000/a:latest",
		"[::1]:5000/a:T.1_x":                    "[::1]:5000/a:T.1_x",
		"[2001:db8::1]/a":                       "[2001:db8::1]/a:latest",
		"gcr.io/a/b/c@sha256:" + hex64:          "gcr.io/a/b/c@sha256:" + hex64,
		"gcr.io/a:tag@sha256:" + hex64:          "gcr.io/a@sha256:" + hex64,
		"Host/app":                              "Host/app:latest",
		"a__b/c--d.e":                           "docker.io/a__b/c--d.e:latest",
		"gcr.io/a@sha512:" + hex64 + hex64:      "gcr.io/a@sha512:" + hex64 + hex64,
		"registry.k8s.io/e2e-test-images/x:1.0": "registry.k8s.io/e2e-test-images/x:1.0",
	} {
		r, err := Parse(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if r.String() != want {
			t.Errorf("%q is %q, want %q", in, r, want)
		}
		again, err := Parse(r.String())
		if err != nil || again != r {
			t.Errorf("%q parsed again: %v, %v", r, again, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{
		"", ":", "@", "a:", "a@", "UPPER", "a/UPPER", "a b", "a//b", "/a", "a/", "-a", "a-", "a:.t", "a:" + strings.Repeat("t", 129),
		"a@sha256:short", "a@md5:0123456789abcdef0123456789abcdef", "a@sha256:" + strings.ToUpper(hex64), "a@sha256:../../etc",
		hex64, "sha256:" + hex64, "host:port/a", "host:123456/a", "[::1/a", "[nonsense]/a", "[fe80::1%eth0]/a", "ho_st.x/a", "-host.x/a",
		"a/../b", "../a", "a\x00b", "a\nb", "é", "localhost/" + strings.Repeat("a", 260),
	} {
		if r, err := Parse(in); err == nil {
			t.Errorf("%q is taken as %q", in, r)
		} else if !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%q: %v is not ErrInvalidArgument", in, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"busybox", "localhost:5000/a:t", "[::1]/a@sha256:" + hex64} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(r.String()); err != nil || again != r {
			t.Fatalf("%q gives %q, which gives %q, %v", s, r, again, err)
		}
		if strings.Contains(r.Path, "..") || strings.ContainsAny(r.String(), "\x00 \n?#%") {
			t.Fatalf("%q gives %q", s, r)
		}
	})
}
