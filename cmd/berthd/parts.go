package main

import (
	"context"
	"os"

	"github.com/berth-cri/berth/cri/berthapi"
	"github.com/berth-cri/berth/imageservice"
	"github.com/berth-cri/berth/imageservice/reference"
	"github.com/berth-cri/berth/runtimeservice"
	"github.com/berth-cri/berth/runtimeservice/monitor"
)

// processes is the monitor's client as the runtime service wants it. The client comes
// after the service, whose exits it reports.
type processes struct {
	*monitor.Client
}

var _ runtimeservice.Processes = (*processes)(nil)

func (p *processes) Exec(ctx context.Context, req monitor.ExecRequest) (runtimeservice.Execution, *os.File, error) {
	e, err := p.Client.Exec(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	return e, e.Console, nil
}

// pulls are the running pulls as the command line follows them.
func pulls(images *imageservice.Service) func() []berthapi.Snapshot {
	return func() []berthapi.Snapshot {
		var snapshots []berthapi.Snapshot
		for _, p := range images.Pulls() {
			snapshot := berthapi.Snapshot{Ref: p.Ref}
			for _, l := range p.Layers {
				snapshot.Layers = append(snapshot.Layers, berthapi.Layer{
					Digest: l.Digest, Total: l.Size, Done: l.Fetched, Resumed: l.Resumed, State: layerState(l),
				})
			}
			snapshots = append(snapshots, snapshot)
		}
		return snapshots
	}
}

func layerState(l imageservice.LayerProgress) berthapi.LayerState {
	switch {
	case l.Done && l.Shared:
		return berthapi.LayerExists
	case l.Done:
		return berthapi.LayerDone
	case l.Fetched == 0:
		return berthapi.LayerWaiting
	case l.Fetched < l.Size:
		return berthapi.LayerDownloading
	default:
		return berthapi.LayerUnpacking
	}
}

// sameImage tells whether the name that a client asks for means the one of a running
// pull, which is written out in full.
func sameImage(asked, running string) bool {
	ref, err := reference.Parse(asked)
	return err == nil && ref.String() == running
}
