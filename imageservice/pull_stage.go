package imageservice

import (
	"context"
	"fmt"

	"github.com/docker/go-units"

	"github.com/berth-cri/berth/operation"
)

// stage goes on to the next stage of the pull; what is begun with the context it
// returns is part of that.
func (p *pull) stage(ctx context.Context, name string) context.Context {
	p.stageOver(nil)
	p.progress.stage(name)
	inner, end := operation.Stage(ctx, pullStages[name])
	waited := operation.Wait(inner, p.describe)
	p.endStage = func(err error) {
		waited()
		end(err)
	}
	return inner
}

// stageOver ends the present stage, if there is one.
func (p *pull) stageOver(err error) {
	if p.endStage != nil {
		p.endStage(err)
		p.endStage = nil
	}
}

// pullStages are the stages as operations name them.
var pullStages = map[string]string{
	StageResolve: "resolve name",
	StageConfig:  "fetch configuration",
	StageLayers:  "fetch layers",
	StageCommit:  "commit image",
}

// joined says that a call waits for a pull that another has begun.
func (p *pull) joined(ctx context.Context) (done func()) {
	if p.by == operation.From(ctx) {
		return func() {}
	}
	return operation.Wait(ctx, func() string {
		return fmt.Sprintf("%v for the same, which it has joined: %s", p.by, p.describe())
	})
}

// describe tells a person how far the pull is.
func (p *pull) describe() string {
	now := p.progress.snapshot()
	if now.Stage != StageLayers || len(now.Layers) == 0 {
		return fmt.Sprintf("image pull of %s: %s", now.Ref, pullStages[now.Stage])
	}
	var done int
	var fetched, size int64
	for _, l := range now.Layers {
		if l.Done {
			done++
			if l.Shared {
				continue // nothing is fetched for it
			}
		}
		fetched += min(l.Fetched, l.Size)
		size += l.Size
	}
	return fmt.Sprintf("image pull of %s: layer %d/%d, %s of %s", now.Ref, done, len(now.Layers),
		units.HumanSize(float64(fetched)), units.HumanSize(float64(size)))
}
