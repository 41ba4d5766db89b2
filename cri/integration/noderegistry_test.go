package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	mathrand "math/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// twoNodes are two network namespaces with a cable between them.
type twoNodes struct {
	names [2]string
	ips   [2]string
}

func newTwoNodes(t *testing.T) twoNodes {
	t.Helper()
	var n twoNodes
	id := os.Getpid() % 1_000_000
	for i, letter := range []string{"a", "b"} {
		n.names[i] = fmt.Sprintf("bit%d%s", id, letter)
		n.ips[i] = fmt.Sprintf("10.251.%d.%d", id%250, i+1)
		ip(t, "netns", "add", n.names[i])
		t.Cleanup(func() { ip(t, "netns", "delete", n.names[i]) })
		ip(t, "-n", n.names[i], "link", "set", "lo", "up")
	}
	ip(t, "link", "add", "bit0", "netns", n.names[0], "type", "veth", "peer", "name", "bit0", "netns", n.names[1])
	for i := range n.names {
		ip(t, "-n", n.names[i], "address", "add", n.ips[i]+"/24", "dev", "bit0")
		ip(t, "-n", n.names[i], "link", "set", "bit0", "up")
	}
	return n
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func (n twoNodes) path(i int) string { return filepath.Join("/run/netns", n.names[i]) }

// listen listens inside of a namespace, on its loopback interface.
func (n twoNodes) listen(t *testing.T, i int) net.Listener {
	t.Helper()
	// The thread goes back: if it is the main one, it would stay there for all other tests.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	there, err := os.Open(n.path(i))
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err := errors.Join(err, unix.Setns(int(home.Fd()), unix.CLONE_NEWNET)); err != nil {
		t.Fatal(err)
	}
	return l
}

// daemonIn starts a daemon in a namespace.
func (n twoNodes) daemonIn(t *testing.T, i int, config string) *daemon {
	t.Helper()
	d, err := layOut(shortDir(t), config)
	if err != nil {
		t.Fatal(err)
	}
	d.Through = []string{"nsenter", "--net=" + n.path(i), "--"}
	if err := d.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of node %d:\n%s", i, d.logTail(60))
		}
		if err := d.close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// certificateFor makes a self-signed certificate and its key.
func certificateFor(t *testing.T, dir, address string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, IPAddresses: []net.IP{net.ParseIP(address)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writeFile(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return cert, key
}

// Images that node A holds start on node B, which has nothing but A: the registry is
// gone. When A dies in the middle of a pull, the error names every host; when it is
// back, the pull goes on.
func TestImagesFromAnotherNode(t *testing.T) {
	nodes := newTwoNodes(t)
	source := imagetest.ServeListener(nodes.listen(t, 0))
	defer source.Close()
	dir := shortDir(t)
	recipient, err := imagetest.NewRecipient()
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "keys", "key.pem"), string(recipient.PrivateKey))
	pushForNodes(t, source, recipient)

	const token = "a-token-of-node-b-0123456789"
	cert, key := certificateFor(t, dir, nodes.ips[0])
	writeFile(t, filepath.Join(dir, "tokens"), "node-b:"+token+"\n")
	writeFile(t, filepath.Join(dir, "a", "registry.example", "hosts.toml"), fmt.Sprintf("server = \"http://%s\"\n", source.Host))
	address := nodes.ips[0] + ":5443"
	writeFile(t, filepath.Join(dir, "b", "registry.example", "hosts.toml"), fmt.Sprintf(
		"server = \"http://%s\"\n[host.\"https://%s\"]\n  ca = %q\n  [host.\"https://%s\".header]\n    Authorization = \"Bearer %s\"\n",
		source.Host, address, cert, address, token))
	common := fmt.Sprintf("nri: {enabled: false}\nimages:\n  decryptionKeysDir: %s/keys\n  certsDirs: [%s/%%s]\n", dir, dir)
	a := nodes.daemonIn(t, 0, fmt.Sprintf(common, "a")+fmt.Sprintf(
		"  serve: {address: %q, repositories: [registry.example/**], tlsCert: %s, tlsKey: %s, tokensFile: %s/tokens, bandwidth: 8388608}\n", address, cert, key, dir))
	b := nodes.daemonIn(t, 1, fmt.Sprintf(common, "b"))

	names := []string{"registry.example/it/busybox:1", "registry.example/it/multi:1", "registry.example/it/secret:1"}
	for _, name := range append(names, "registry.example/it/big:1") {
		a.pull(t, name)
	}
	source.Close()
	for _, name := range names {
		b.pull(t, name)
		p := b.runPod(t, hostNetwork)
		if got := p.output(func(c *runtimeapi.ContainerConfig) { c.Image.Image = name }, command("cat", "/mark")); got != name {
			t.Errorf("%s: %q", name, got)
		}
		p.remove()
	}
	pullWhileNodeDies(t, a, b, address)
	a.restart(t, syscall.SIGTERM)
	b.pull(t, "registry.example/it/big:1")
	if log := b.logTail(1000); !strings.Contains(log, "transfer goes on where an earlier one ended") {
		t.Error("what had been fetched was fetched again")
	}
	for _, d := range []*daemon{a, b} {
		for _, secret := range []string{token, string(recipient.PrivateKey[40:80])} {
			if log, err := os.ReadFile(d.Log); err != nil || strings.Contains(string(log), secret) {
				t.Errorf("a secret is in the log: %v", err)
			}
		}
	}
}

// pushForNodes pushes images that tell their names, of each kind, and one that takes a
// while to fetch.
func pushForNodes(t *testing.T, r *imagetest.Registry, to *imagetest.Recipient) {
	t.Helper()
	marked := func(name string) *imagetest.Image {
		i, err := imagetest.Busybox()
		if err != nil {
			t.Fatal(err)
		}
		i.Layers = append(i.Layers, imagetest.NewLayer(imagetest.Tar(imagetest.File("mark", "registry.example/it/"+name+":1", 0o644)), imagetest.Zstd))
		return i
	}
	secret := marked("secret")
	var err error
	if secret.Layers[1], err = secret.Layers[1].Encrypt(to); err != nil {
		t.Fatal(err)
	}
	random := make([]byte, 48<<20)
	mathrand.New(mathrand.NewSource(1)).Read(random) //nolint:gosec // it only has to be hard to compress
	for name, i := range map[string]*imagetest.Image{
		"busybox": marked("busybox"), "secret": secret,
		"big": imagetest.New(imagetest.NewLayer(imagetest.Tar(imagetest.File("random", string(random), 0o644)), imagetest.Plain)),
	} {
		if _, err := r.Push("it/"+name, "1", i); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.PushIndex("it/multi", "1", &imagetest.Index{Images: []*imagetest.Image{marked("multi")}}); err != nil {
		t.Fatal(err)
	}
}

// pullWhileNodeDies kills node A when B has a part of an image.
func pullWhileNodeDies(t *testing.T, a, b *daemon, address string) {
	t.Helper()
	failed := make(chan error, 1)
	go func() {
		_, err := b.images.PullImage(context.Background(), &runtimeapi.ImageSpec{Image: "registry.example/it/big:1"}, nil, nil)
		failed <- err
	}()
	eventually(t, "a part of the image is on node B", func() bool {
		var size int64
		_ = filepath.WalkDir(filepath.Join(b.Root, "partial"), func(_ string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				if info, err := e.Info(); err == nil {
					size += info.Size()
				}
			}
			return nil
		})
		return size > 8<<20
	})
	a.end(t, syscall.SIGKILL)
	err := <-failed
	if err == nil || !strings.Contains(err.Error(), crierrors.ErrRegistryUnavailable.Error()) ||
		!strings.Contains(err.Error(), "https://"+address+": ") || !strings.Contains(err.Error(), "http://127.0.0.1:") {
		t.Errorf("the error does not name every host: %v", err)
	}
	if err := a.start(t.Context()); err != nil {
		t.Fatal(err)
	}
}
