package encryption

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// The files in testdata are one key, as openssl writes it in many forms, and forms
// that are refused. The password of the encrypted ones is "sesame".
func folder(t *testing.T, files map[string]string, content map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, from := range files {
		b, err := os.ReadFile(filepath.Join("testdata", from))
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, name, b)
	}
	for name, b := range content {
		write(t, dir, name, b)
	}
	return dir
}

func write(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/pkcs8.pem")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	return block.Bytes
}

func asJWK(t *testing.T, public bool) []byte {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(want(t))
	if err != nil {
		t.Fatal(err)
	}
	jwk := jose.JSONWebKey{Key: key}
	if public {
		jwk = jwk.Public()
	}
	b, err := json.Marshal(jwk)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFormsOfKeys(t *testing.T) {
	password := []byte("sesame\n")
	for _, file := range []string{"ec.pem", "pkcs8.pem", "pkcs8.der", "pbes2.pem", "pbes2-sha1.pem", "old.pem"} {
		dir := folder(t, map[string]string{"key": file}, map[string][]byte{"key.password": password, ".hidden": []byte("no key")})
		k, err := Open(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if got := k.current().private; len(got) != 1 || !bytes.Equal(got[0], want(t)) {
			t.Errorf("%s is another key, or none: %d", file, len(got))
		}
	}
	k, err := Open(folder(t, nil, map[string][]byte{"jwk": asJWK(t, false)}), slog.New(slog.DiscardHandler))
	if err != nil || len(k.current().private) != 1 || !bytes.Equal(k.current().private[0], want(t)) {
		t.Errorf("JWK: %v", err)
	}
}

func TestFilesThatAreNoKeys(t *testing.T) {
	for text, c := range map[string]struct {
		file     string
		content  []byte
		password string
	}{
		"no file with its password":             {file: "pbes2.pem"},
		"does not open with its password":       {file: "pbes2.pem", password: "open"},
		"there is no file with its password":    {file: "old.pem"},
		"key does not open":                     {file: "old.pem", password: "open"},
		"is not PBKDF2":                         {file: "scrypt.pem", password: "sesame"},
		`"PUBLIC KEY", which is neither`:        {file: "public.pem"},
		"is not a private key in PKCS #8":       {content: []byte("hello")},
		"is not a private key in JWK form":      {content: asJWK(t, true)},
		"is damaged PEM":                        {content: []byte("-----BEGIN PRIVATE KEY-----\nhello")},
		"is not a regular file of at most 1048": {content: make([]byte, 2<<20)},
	} {
		dir := folder(t, map[string]string{"good": "pkcs8.pem"}, nil)
		if c.file != "" {
			b, err := os.ReadFile(filepath.Join("testdata", c.file))
			if err != nil {
				t.Fatal(err)
			}
			c.content = b
		}
		write(t, dir, "bad", c.content)
		if c.password != "" {
			write(t, dir, "bad.password", []byte(c.password))
		}
		_, err := Open(dir, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), dir+"/bad") {
			t.Errorf("want %q, got %v", text, err)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none"), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a folder that is not there was taken")
	}
}

// While the daemon runs, a bad file is left out and the others stay; keys come and go
// with their files.
func TestKeysFollowTheFolder(t *testing.T) {
	dir := folder(t, map[string]string{"key": "pkcs8.pem"}, nil)
	var log bytes.Buffer
	k, err := Open(dir, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	before := k.Stamp()
	write(t, dir, "bad", []byte("hello"))
	if len(k.current().private) != 1 || k.Stamp() == before || !strings.Contains(log.String(), dir+"/bad") {
		t.Errorf("%d keys; %s", len(k.current().private), log.String())
	}
	if err := os.Remove(filepath.Join(dir, "key")); err != nil {
		t.Fatal(err)
	}
	if len(k.current().private) != 0 {
		t.Error("a key is there after its file has gone")
	}
}

func FuzzDecryptPKCS8(f *testing.F) {
	for _, name := range []string{"pbes2.pem", "pbes2-sha1.pem", "scrypt.pem"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		block, _ := pem.Decode(b)
		f.Add(block.Bytes)
	}
	f.Fuzz(func(_ *testing.T, der []byte) {
		if len(der) < 4<<10 {
			_, _ = decryptPKCS8(der, []byte("sesame"))
		}
	})
}
