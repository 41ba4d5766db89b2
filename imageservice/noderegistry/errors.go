package noderegistry

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// failure is an answer in the form of the distribution specification, "Error
// Codes".
type failure struct {
	status        int
	code, message string
}

func (f *failure) Error() string { return f.code + ": " + f.message }

func nameUnknown(repository string) *failure {
	return &failure{http.StatusNotFound, "NAME_UNKNOWN", fmt.Sprintf("no image of %q is served here", repository)}
}

func manifestUnknown(what string) *failure {
	return &failure{http.StatusNotFound, "MANIFEST_UNKNOWN", fmt.Sprintf("manifest %q is not here", what)}
}

func blobUnknown(what string) *failure {
	return &failure{http.StatusNotFound, "BLOB_UNKNOWN", fmt.Sprintf("blob %s is not here", what)}
}

func unsupported(status int, message string) *failure {
	return &failure{status, "UNSUPPORTED", message}
}

// write sends the failure. A HEAD gets no body; net/http sees to that.
func (f *failure) write(w http.ResponseWriter) {
	body, err := json.Marshal(map[string]any{"errors": []map[string]string{{"code": f.code, "message": f.message}}})
	if err != nil {
		body = nil // strings always encode
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Del("Docker-Content-Digest")
	w.WriteHeader(f.status)
	_, _ = w.Write(body) // a client that is gone needs no answer
}
