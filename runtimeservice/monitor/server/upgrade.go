package server

import (
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

func (p *peer) upgrade(u *protocol.Upgrade) (answer, error) {
	return answer{}, fmt.Errorf("upgrade to %s: %w", u.Binary, errdefs.ErrNotImplemented)
}
