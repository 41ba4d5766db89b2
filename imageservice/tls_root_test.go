package imageservice

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// authority signs certificates for the loopback interface.
type authority struct {
	file string // its certificate
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{cert: cert, key: key, file: filepath.Join(t.TempDir(), "ca.pem")}
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// issue makes a certificate and returns it with the files that hold it.
func (a *authority) issue(t *testing.T, name string) (cert tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePEM(t, certFile, "CERTIFICATE", der)
	writePEM(t, keyFile, "EC PRIVATE KEY", keyDER)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, certFile, keyFile
}

// listen listens with TLS; with clients, only for those that it has signed.
func (a *authority) listen(t *testing.T, clients *authority) net.Listener {
	t.Helper()
	cert, _, _ := a.issue(t, "server")
	config := &tls.Config{Certificates: []tls.Certificate{cert}}
	if clients != nil {
		config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		config.ClientCAs.AddCert(clients.cert)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func TestTLS(t *testing.T) {
	ca := newAuthority(t)
	plain := imagetest.ServeListener(ca.listen(t, nil))
	defer plain.Close()
	mutual := imagetest.ServeListener(ca.listen(t, ca))
	defer mutual.Close()
	_, cert, key := ca.issue(t, "client")
	where := map[string]string{"plain": plain.Host, "mutual": mutual.Host, "ca": ca.file, "cert": cert, "key": key}
	for _, r := range []*imagetest.Registry{plain, mutual} {
		push(t, r, "app", "1", small("x"))
	}
	for name, c := range map[string]struct {
		toml string
		fail string
	}{
		"unknown authority":       {"server = \"https://$plain\"", "certificate signed by unknown authority"},
		"ca":                      {"server = \"https://$plain\"\nca = \"$ca\"", ""},
		"skip_verify":             {"server = \"https://$plain\"\nskip_verify = true", ""},
		"client certificate":      {"server = \"https://$mutual\"\nca = [\"$ca\"]\nclient = [[\"$cert\", \"$key\"]]", ""},
		"no client certificate":   {"server = \"https://$mutual\"\nca = \"$ca\"", "certificate required"},
		"certificate without key": {"server = \"https://$mutual\"\nca = \"$ca\"\nclient = \"$cert\"", "client certificate"},
		"ca is missing":           {"server = \"https://$plain\"\nca = \"/absent.pem\"", "/absent.pem"},
		"ca is no certificate":    {"server = \"https://$plain\"\nca = \"$key\"", "no certificate"},
		"http instead of https":   {"server = \"http://$plain\"", "400"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, withHosts(t, "registry.example", c.toml, where))
			_, err := pullImage(s, "registry.example/app:1")
			if c.fail == "" && err != nil || c.fail != "" && (err == nil || !strings.Contains(err.Error(), c.fail)) {
				t.Errorf("%v, want %q", err, c.fail)
			}
		})
	}
}

// Loopback registries may be without TLS and without a known certificate; others
// only where the configuration says so.
func TestLoopback(t *testing.T) {
	ca := newAuthority(t)
	r := imagetest.ServeListener(ca.listen(t, nil))
	defer r.Close()
	name := push(t, r, "app", "1", small("x"))
	// Loopback registries are not verified, like containerd has it.
	mustPull(t, newService(t), name)
	// A plain registry where TLS is asked for explicitly is not fallen back to.
	plain := newRegistry(t)
	push(t, plain, "app", "1", small("x"))
	s := newService(t, withHosts(t, "registry.example", "server = \"https://$r\"", map[string]string{"r": plain.Host}))
	if _, err := pullImage(s, "registry.example/app:1"); err == nil || !strings.Contains(err.Error(), "HTTP response to HTTPS client") {
		t.Errorf("%v", err)
	}
}
