package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// A policy that comes into force later stops containers of images that are on the
// node already, and nothing of them is left.
func TestImagePolicy(t *testing.T) {
	const head = "apiVersion: berth.dev/v1alpha1\nkind: ImagePolicy\n"
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(head), 0o600); err != nil {
		t.Fatal(err)
	}
	d := ownDaemon(t, "images:\n  policyFile: "+file+"\n")
	p := d.runPod(t, hostNetwork)
	p.run()
	if err := os.WriteFile(file, []byte(head+"registries: {deny: ['127.0.0.1:*']}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, err error, code codes.Code) {
		t.Helper()
		if statusCode(err) != code || !strings.Contains(err.Error(), crierrors.ErrSignatureValidationFailed.Error()) {
			t.Errorf("%s: %v", what, err)
		}
	}
	before := p.containers()
	_, err := d.runtime.CreateContainer(context.Background(), p.id, p.containerConfig(), p.config)
	refused("a container", err, codes.PermissionDenied)
	same(t, "containers", p.containers(), before)
	_, err = d.images.PullImage(context.Background(), &runtimeapi.ImageSpec{Image: busybox}, nil, p.config)
	refused("a pull", err, codes.Unknown) // the kubelet looks for the word alone
	p.remove()
	checkNothingLeft(t, d)
}
