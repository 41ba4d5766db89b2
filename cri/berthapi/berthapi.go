// Package berthapi is what Berth serves over its socket beside CRI, for its own command
// line: the gRPC services berth.v1.Images (how far pulls are), Transfers (images in and out,
// and their names), Storage (what is on the disk), Containers (their files) and Operations
// (what goes on).
//
// The messages are google.protobuf.Struct on the wire, so that any gRPC client
// can read them without generated code. Unknown fields are ignored by both
// sides; a field may be added, none may change its meaning.
package berthapi

import (
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

// LayerState is how far one layer of a running pull has come.
type LayerState string

// The states of a layer, in the order in which it goes through them.
const (
	LayerWaiting     LayerState = "waiting"
	LayerDownloading LayerState = "downloading"
	LayerUnpacking   LayerState = "unpacking"
	LayerDone        LayerState = "done"
	// LayerExists is the state of a layer that was there before the pull.
	LayerExists LayerState = "exists"
	// LayerUploading is the state of one that is on its way to a registry.
	LayerUploading LayerState = "uploading"
)

// Layer is the progress of one layer. Total and Done count bytes of the
// compressed blob; Total is 0 while it is unknown.
type Layer struct {
	Digest string `json:"digest"`
	Total  int64  `json:"total"`
	Done   int64  `json:"done"`
	// Resumed is the part of Done that an earlier, broken transfer has brought.
	Resumed int64      `json:"resumed,omitempty"`
	State   LayerState `json:"state"`
}

// Snapshot is the whole progress of a pull at one instant: a reader may miss
// any number of snapshots and is right again with the next one.
type Snapshot struct {
	Ref    string  `json:"ref"`
	Layers []Layer `json:"layers"`
}

type progressRequest struct {
	Ref string `json:"ref"`
}

func toStruct(v any) (*structpb.Struct, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	msg := &structpb.Struct{}
	if err := protojson.Unmarshal(data, msg); err != nil {
		return nil, fmt.Errorf("encode %T as protobuf: %w", v, err)
	}
	return msg, nil
}

func fromStruct(msg *structpb.Struct, v any) error {
	data, err := protojson.Marshal(msg)
	if err != nil {
		return fmt.Errorf("read message for %T: %w", v, err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return nil
}
