package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// A pod gets an encrypted image as long as the node has its key, also when the image
// is on the node already; without, the kubelet is told why.
func TestEncryptedImage(t *testing.T) {
	recipient, err := imagetest.NewCertificateRecipient()
	if err != nil {
		t.Fatal(err)
	}
	i, err := imagetest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	i.Config.Author = "of its own" // or it would be the other busybox, in clear
	if i.Layers[0], err = i.Layers[0].Encrypt(recipient); err != nil {
		t.Fatal(err)
	}
	name, err := registry.Push("it/encrypted", "1", i)
	if err != nil {
		t.Fatal(err)
	}
	keys := t.TempDir()
	d := ownDaemon(t, "images: {decryptionKeysDir: "+keys+"}\n")
	p := d.runPod(t, hostNetwork)
	image := func(c *runtimeapi.ContainerConfig) { c.Image.Image = name }
	refused := func(what string, err error) {
		t.Helper()
		if statusCode(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "keys of "+keys) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = d.images.PullImage(t.Context(), &runtimeapi.ImageSpec{Image: name}, nil, p.config)
	refused("a pull without the key", err)
	file := filepath.Join(keys, "key.pem")
	writeFile(t, file, string(recipient.PrivateKey)+string(recipient.Certificate))
	d.pull(t, name)
	d.pull(t, busybox)
	if got := p.output(image, command("echo", "decrypted")); got != "decrypted" {
		t.Errorf("%q", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	_, err = p.tryCreate(image)
	refused("a container without the key", err)
	_, err = p.tryCreate(func(c *runtimeapi.ContainerConfig) {
		c.Mounts = []*runtimeapi.Mount{{ContainerPath: "/mnt", Image: &runtimeapi.ImageSpec{Image: name}, Readonly: true}}
	})
	refused("the image as a volume without the key", err)
	p.remove()
	checkNothingLeft(t, d)
}
