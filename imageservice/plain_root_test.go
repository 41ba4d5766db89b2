package imageservice

import (
	"strings"
	"testing"
)

// An error names the host as it was spoken to.
func TestErrorsOfPlainRegistriesSayHTTP(t *testing.T) {
	r := newRegistry(t)
	_, err := pullImage(newService(t), r.Host+"/none:1")
	if err == nil || !strings.Contains(err.Error(), "http://"+r.Host+": 404") || strings.Contains(err.Error(), "https://") {
		t.Errorf("error is %v", err)
	}
}
