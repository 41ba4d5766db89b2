package noderegistry

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
)

// certificates are read again when their files have changed, so that they can be
// renewed under a running server.
type certificates struct {
	cert, key, clientCA string
	log                 *slog.Logger

	mu      sync.Mutex
	stamp   string
	current *tls.Config
}

// newTLS speaks HTTP/1.1 alone: blobs are what is sent, and one connection for each
// is the fastest way.
func newTLS(cert, key, clientCA string, log *slog.Logger) (*tls.Config, error) {
	c := &certificates{cert: cert, key: key, clientCA: clientCA, log: log}
	if err := c.read(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.config(), nil },
	}, nil
}

func (c *certificates) read() error {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("certificate %s and key %s: %w", c.cert, c.key, err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}
	if c.clientCA != "" {
		pem, err := os.ReadFile(c.clientCA)
		if err != nil {
			return fmt.Errorf("read client CA: %w", err)
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("client CA %s holds no certificate", c.clientCA)
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	c.current, c.stamp = config, fileStamp(c.cert, c.key, c.clientCA)
	return nil
}

func (c *certificates) config() *tls.Config {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := fileStamp(c.cert, c.key, c.clientCA)
	if now != c.stamp {
		if err := c.read(); err != nil {
			c.log.Error("the certificates before stay in use", "error", err)
		}
		c.stamp = now
	}
	return c.current
}
