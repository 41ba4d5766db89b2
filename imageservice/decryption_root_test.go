package imageservice

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/imageservice/encryption"
	"github.com/berth-cri/berth/imageservice/imagetest"
)

func recipient(t *testing.T, make func() (*imagetest.Recipient, error)) *imagetest.Recipient {
	t.Helper()
	r, err := make()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// encrypted makes an image of one open layer and encrypted ones.
func encrypted(t *testing.T, to []*imagetest.Recipient, texts ...string) *imagetest.Image {
	t.Helper()
	i := small("in clear")
	for _, text := range texts {
		l, err := imagetest.NewLayer(imagetest.Tar(imagetest.File("secret-"+text[:4], text, 0o644)), imagetest.Gzip).Encrypt(to...)
		if err != nil {
			t.Fatal(err)
		}
		i.Layers = append(i.Layers, l)
	}
	return i
}

// keyFolder is a folder with the recipients' keys.
func keyFolder(t *testing.T, of ...*imagetest.Recipient) string {
	t.Helper()
	dir := t.TempDir()
	for n, r := range of {
		name := filepath.Join(dir, "key"+string(rune('a'+n)))
		if err := os.WriteFile(name, append(bytes.Clone(r.PrivateKey), r.Certificate...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func withKeys(dir string) func(*Options) {
	return func(o *Options) { o.DecryptionKeysDir = dir }
}

func TestEncryptedImages(t *testing.T) {
	jwe, pkcs7, stranger := recipient(t, imagetest.NewRecipient), recipient(t, imagetest.NewCertificateRecipient), recipient(t, imagetest.NewRecipient)
	r := newRegistry(t)
	long := strings.Repeat("secret text ", 300_000) // more than one piece
	for name, to := range map[string][]*imagetest.Recipient{"jwe": {jwe}, "pkcs7": {pkcs7}, "both": {stranger, jwe, pkcs7}} {
		s := newService(t, withKeys(keyFolder(t, jwe, pkcs7)))
		i := encrypted(t, to, long)
		id := mustPull(t, s, push(t, r, name, "1", i))
		root := mount(t, s, "c", id)
		if got, err := os.ReadFile(filepath.Join(root, "secret-secr")); err != nil || string(got) != long {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if err := s.Admit(context.Background(), id, "", "any"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if resp, err := s.ImageStatus(context.Background(), &runtimeapi.ImageSpec{Image: id}, true); err != nil ||
			!strings.Contains(resp.Info["info"], `"diffID":"`+i.Layers[1].DiffID.String()+`","encrypted":true`) {
			t.Errorf("%s: %v, %v", name, resp.GetInfo(), err)
		}
	}
}

// Without the key nothing is fetched and nothing stays, and the error says what is
// missing; no part of a key is in any text.
func TestEncryptedImageWithoutKey(t *testing.T) {
	mine, other := recipient(t, imagetest.NewRecipient), recipient(t, imagetest.NewRecipient)
	r := newRegistry(t)
	i := encrypted(t, []*imagetest.Recipient{other}, "secret text")
	name := push(t, r, "app", "1", i)
	var log lockedBuffer
	dir := keyFolder(t, mine)
	for want, change := range map[string]func(*Options){
		"images.decryptionKeysDir is not set": withKeys(""),
		"tried 1 keys of " + dir:              withKeys(dir),
	} {
		s := newService(t, change, func(o *Options) {
			o.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		_, err := pullImage(s, name)
		if !errors.Is(err, errdefs.ErrPermissionDenied) || !errors.Is(err, encryption.ErrNoKey) || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v", err)
		}
		expectEmpty(t, s)
		if strings.Contains(err.Error()+log.String(), string(mine.PrivateKey[40:60])) {
			t.Error("a key is in the log or the error")
		}
	}
	if got := r.Requests("/blobs/" + i.Layers[1].Descriptor.Digest.String()); len(got) != 0 {
		t.Errorf("fetched all the same: %v", got)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A node that has the image unpacked does not give it out when its key is gone.
func TestKeyIsNeededAgain(t *testing.T) {
	key := recipient(t, imagetest.NewRecipient)
	dir, r := keyFolder(t, key), newRegistry(t)
	s := newService(t, withKeys(dir))
	name := push(t, r, "app", "1", encrypted(t, []*imagetest.Recipient{key}, "secret text"))
	id := mustPull(t, s, name)
	file := filepath.Join(dir, "keya")
	if err := os.Rename(file, filepath.Join(t.TempDir(), "away")); err != nil {
		t.Fatal(err)
	}
	if err := s.Admit(context.Background(), id, name, "any"); !errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Errorf("create without key: %v", err)
	}
	if _, err := pullImage(s, name); !errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Errorf("pull of the unchanged image without key: %v", err)
	}
	if err := os.WriteFile(file, key.PrivateKey, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Admit(context.Background(), id, name, "any"); err != nil {
		t.Errorf("with the key again: %v", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Admit(context.Background(), id, name, "any"); !errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Errorf("create without the folder: %v", err)
	}
}

// The DiffID of a decrypted layer is no secret: whoever writes it into a
// configuration must not get the layer for it.
func TestDiffIDGivesNoAccess(t *testing.T) {
	key := recipient(t, imagetest.NewRecipient)
	s, r := newService(t, withKeys(keyFolder(t, key))), newRegistry(t)
	victim := encrypted(t, []*imagetest.Recipient{key}, "secret text")
	victimID := mustPull(t, s, push(t, r, "victim", "1", victim))
	stolen := victim.Layers[1]

	open := stolen // the DiffID with some other blob, as if it were the layer in clear
	other := imagetest.NewLayer(imagetest.Tar(imagetest.File("x", "x", 0o644)), imagetest.Gzip)
	open.Blob, open.Descriptor = other.Blob, other.Descriptor
	forged := stolen // the victim's blob, with a key of the thief's own for the node
	mine, err := imagetest.NewLayer(other.Blob, imagetest.Plain).Encrypt(key)
	if err != nil {
		t.Fatal(err)
	}
	forged.Descriptor.Annotations = mine.Descriptor.Annotations
	mixed := stolen // the victim's key, with another blob
	mixed.Blob, mixed.Descriptor.Digest, mixed.Descriptor.Size = mine.Blob, mine.Descriptor.Digest, mine.Descriptor.Size
	for name, l := range map[string]imagetest.Layer{"open": open, "forged": forged, "mixed": mixed} {
		before := len(s.store.Layers())
		i := imagetest.New(l)
		i.Config.Author = name
		if _, err := pullImage(s, push(t, r, name, "1", i)); err == nil {
			t.Errorf("%s: the layer was given away", name)
		}
		if got := len(s.store.Layers()); got != before {
			t.Errorf("%s: %d layers, were %d", name, got, before)
		}
	}

	// Who has the layer in clear may use it, and it is a layer of its own then.
	clear := imagetest.NewLayer(imagetest.Tar(imagetest.File("secret-secr", "secret text", 0o644)), imagetest.Gzip)
	id := mustPull(t, s, push(t, r, "clear", "1", imagetest.New(clear)))
	if err := s.Admit(context.Background(), id, "", ""); err != nil {
		t.Error(err)
	}
	if err := s.Admit(context.Background(), victimID, "", ""); err != nil {
		t.Error(err)
	}
}

// An image that is there encrypted and then comes in clear, or the other way, has
// the same ID. Each layer is let go with the last that needs it.
func TestSameImageEncryptedAndInClear(t *testing.T) {
	key := recipient(t, imagetest.NewRecipient)
	dir, r := keyFolder(t, key), newRegistry(t)
	s := newService(t, withKeys(dir))
	hidden := encrypted(t, []*imagetest.Recipient{key}, "secret text")
	open := small("in clear")
	open.Layers = append(open.Layers, imagetest.NewLayer(imagetest.Tar(imagetest.File("secret-secr", "secret text", 0o644)), imagetest.Gzip))
	if open.ID() != hidden.ID() {
		t.Fatal("the two have different IDs")
	}
	names := []string{push(t, r, "hidden", "1", hidden), push(t, r, "open", "1", open)}
	for _, name := range append(names, names...) {
		id := mustPull(t, s, name)
		if got := s.store.Layers(); len(got) != 2 {
			t.Errorf("after %s: %d layers", name, len(got))
		}
		root := mount(t, s, "c-"+digest.FromString(name).Encoded()[:8], id)
		if _, err := os.Stat(filepath.Join(root, "secret-secr")); err != nil {
			t.Error(err)
		}
		if err := s.RemoveRootfs(context.Background(), "c-"+digest.FromString(name).Encoded()[:8]); err != nil {
			t.Error(err)
		}
	}
	if err := s.RemoveImage(context.Background(), &runtimeapi.ImageSpec{Image: open.ID()}); err != nil {
		t.Fatal(err)
	}
	expectEmpty(t, s)
}

// What a registry makes of an encrypted layer's description is an error by name, or
// the layer.
func TestBadEncryptedLayers(t *testing.T) {
	key := recipient(t, imagetest.NewRecipient)
	s, r := newService(t, withKeys(keyFolder(t, key))), newRegistry(t)
	public := "org.opencontainers.image.enc.pubopts"
	wrapped := "org.opencontainers.image.enc.keys.jwe"
	for name, c := range map[string]struct {
		kind   error
		change func(map[string]string)
	}{
		"no annotations":     {errdefs.ErrInvalidArgument, func(a map[string]string) { clear(a) }},
		"no public options":  {errdefs.ErrInvalidArgument, func(a map[string]string) { delete(a, public) }},
		"options not base64": {errdefs.ErrInvalidArgument, func(a map[string]string) { a[public] = "%" }},
		"options not JSON":   {errdefs.ErrInvalidArgument, func(a map[string]string) { a[public] = "eA==" }},
		"unknown cipher":     {errdefs.ErrInvalidArgument, func(a map[string]string) { a[public] = "eyJjaXBoZXIiOiJyb3QxMyJ9" }},
		"key not base64":     {errdefs.ErrInvalidArgument, func(a map[string]string) { a[wrapped] = "%" }},
		"key not JWE":        {errdefs.ErrPermissionDenied, func(a map[string]string) { a[wrapped] = "eA==" }},
		"far too many keys":  {errdefs.ErrInvalidArgument, func(a map[string]string) { a[wrapped] = strings.Repeat("eA==,", 100_000) }},
		"a scheme of its own": {errdefs.ErrPermissionDenied, func(a map[string]string) {
			a["org.opencontainers.image.enc.keys.provider.x"] = a[wrapped]
			delete(a, wrapped)
		}},
		"a nonce of one byte":  {errdefs.ErrInvalidArgument, changeOptions(t, public, func(o map[string]any) { o["cipheroptions"] = map[string]string{"nonce": "eA=="} })},
		"an HMAC of one byte":  {errdefs.ErrInvalidArgument, changeOptions(t, public, func(o map[string]any) { o["hmac"] = "eA==" })},
		"another HMAC":         {errdefs.ErrInvalidArgument, changeOptions(t, public, func(o map[string]any) { o["hmac"] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" })},
		"an HMAC that is none": {errdefs.ErrInvalidArgument, changeOptions(t, public, func(o map[string]any) { o["hmac"] = 5 })},
	} {
		i := encrypted(t, []*imagetest.Recipient{key}, "secret text")
		c.change(i.Layers[1].Descriptor.Annotations)
		if _, err := pullImage(s, push(t, r, digest.FromString(name).Encoded()[:9], "1", i)); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
		expectEmpty(t, s)
	}
	i := encrypted(t, []*imagetest.Recipient{key}, "secret text")
	changed := bytes.Clone(i.Layers[1].Blob)
	changed[len(changed)/2]++
	i.Layers[1].Blob, i.Layers[1].Descriptor.Digest = changed, digest.FromBytes(changed)
	if _, err := pullImage(s, push(t, r, "changed", "1", i)); err == nil {
		t.Error("a layer that was changed after it was encrypted was taken")
	}
	expectEmpty(t, s)
}

func changeOptions(t *testing.T, name string, change func(map[string]any)) func(map[string]string) {
	return func(annotations map[string]string) {
		var options map[string]any
		content, err := base64.StdEncoding.DecodeString(annotations[name])
		if err == nil {
			err = json.Unmarshal(content, &options)
		}
		if err != nil {
			t.Fatal(err)
		}
		change(options)
		if content, err = json.Marshal(options); err != nil {
			t.Fatal(err)
		}
		annotations[name] = base64.StdEncoding.EncodeToString(content)
	}
}

// Files of an artifact can be encrypted as well.
func TestEncryptedArtifact(t *testing.T) {
	key := recipient(t, imagetest.NewRecipient)
	s, r := newService(t, withKeys(keyFolder(t, key))), newRegistry(t)
	l, err := imagetest.Layer{Blob: []byte("weights"), Descriptor: ocispec.Descriptor{MediaType: "application/vnd.example.model"}}.Encrypt(key)
	if err != nil {
		t.Fatal(err)
	}
	a := &imagetest.Artifact{Type: "application/vnd.example", Files: []imagetest.ArtifactFile{
		{Title: "model", MediaType: l.Descriptor.MediaType, Blob: l.Blob, Annotations: l.Descriptor.Annotations},
	}}
	name, err := r.PushArtifact("artifact", "1", a)
	if err != nil {
		t.Fatal(err)
	}
	target := mustMountImage(t, s, "c", mustPull(t, s, name))
	if got, err := os.ReadFile(filepath.Join(target, "model")); err != nil || string(got) != "weights" {
		t.Errorf("%q, %v", got, err)
	}
}

// A damaged layer is fetched and decrypted again, as long as the key is there.
func TestRepairEncryptedLayer(t *testing.T) {
	key := recipient(t, imagetest.NewRecipient)
	dir, r := keyFolder(t, key), newRegistry(t)
	s := newService(t, withKeys(dir))
	i := encrypted(t, []*imagetest.Recipient{key}, "secret text")
	mustPull(t, s, push(t, r, "app", "1", i))
	var id digest.Digest
	for _, l := range s.store.Layers() {
		if l.Archive == i.Layers[1].DiffID {
			id = l.DiffID
		}
	}
	file := filepath.Join(s.store.Diff(id), "secret-secr")
	for _, c := range []struct{ state, content string }{{CheckRepaired, "secret text"}, {CheckDamaged, "damaged"}} {
		if _, err := s.store.Sync(bg); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("damaged"), 0o644); err != nil {
			t.Fatal(err)
		}
		expectState(t, check(t, s, CheckOptions{Repair: true}), "layer "+id.String(), c.state)
		if got, err := os.ReadFile(file); err != nil || string(got) != c.content {
			t.Errorf("%s: %q, %v", c.state, got, err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}
