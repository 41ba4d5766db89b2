// Package cri is the edge of the daemon that speaks the Container Runtime
// Interface, version v1 (cri-api v0.37), over gRPC. It checks what clients
// send, hands it to the services behind it through the small interfaces in
// services.go, and turns their errors into gRPC codes. It decides nothing about
// pods, containers or images.
//
// A call passes the interceptors in this order: metrics, call log, error codes,
// recovery from panics, default deadline (for a streaming call, its end when
// the server stops); then the handler in the file that is
// named after it. Exec, Attach and PortForward answer with a URL of the
// streaming server in streaming.go.
//
// RPCs that are not implemented answer Unimplemented.
package cri
