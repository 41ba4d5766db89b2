package runtimeservice

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/berth-cri/berth/operation"
	"github.com/berth-cri/berth/runtimeservice/undo"
)

// leftover is something that should not be there any more, or that should be
// given back.
type leftover struct {
	id    string
	purge func(ctx context.Context, id string) error
}

// leftovers is the list of them. They are removed by Run, and tried again until
// that succeeds.
type leftovers struct {
	mu    sync.Mutex
	queue []leftover
	added chan struct{} // has an element when queue grew
}

func newLeftovers() *leftovers { return &leftovers{added: make(chan struct{}, 1)} }

func (l *leftovers) add(item leftover) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, item)
	select {
	case l.added <- struct{}{}:
	default:
	}
}

func (l *leftovers) take() []leftover {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.queue
	l.queue = nil
	return all
}

func (s *Service) leave(item leftover) { s.leftovers.add(item) }

// takeBack undoes what was made of a sandbox or a container, its record last. What cannot be
// undone now is left to Run.
func (s *Service) takeBack(ctx context.Context, log *slog.Logger, id string, u *undo.Stack, deleteRecord func(id string) error, purge func(ctx context.Context, id string) error) {
	err := u.Run(ctx, log)
	if err == nil {
		err = deleteRecord(id)
	}
	if err != nil {
		s.leave(leftover{id: id, purge: purge})
	}
}

const (
	// purgeAgainAfter is when what could not be removed is tried again.
	purgeAgainAfter = 15 * time.Second
	// purgers is how many leftovers are removed at a time.
	purgers = 4
)

// removeLeftovers works on the list until ctx ends. One that hangs keeps its slot,
// until its time is over, and holds up nothing else.
func (s *Service) removeLeftovers(ctx context.Context) {
	slots := make(chan struct{}, purgers)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.leftovers.added:
		}
		for _, item := range s.leftovers.take() {
			s.background.begin()
			go func() {
				defer s.background.end()
				select {
				case slots <- struct{}{}:
					defer func() { <-slots }()
				case <-ctx.Done():
					return
				}
				if err := s.purgeLeftover(ctx, item); err != nil && ctx.Err() == nil {
					s.log.Error("remove leftover; it is tried again", "id", item.id, "error", err)
					time.AfterFunc(purgeAgainAfter, func() { s.leave(item) })
				}
			}()
		}
	}
}

func (s *Service) purgeLeftover(ctx context.Context, item leftover) error {
	ctx, op := s.opts.Operations.Begin(ctx, "background: remove leftover", operation.Subject{ContainerID: item.id}, operation.Options{})
	ctx, cancel := context.WithTimeout(ctx, removeSandboxTimeout)
	defer cancel()
	err := item.purge(ctx, item.id)
	op.End(err)
	return err
}
