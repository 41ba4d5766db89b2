package undo

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"
)

func TestRunLastFirstAndAllOfThem(t *testing.T) {
	var (
		s    Stack
		ran  []string
		boom = errors.New("boom")
	)
	add := func(name string, err error) {
		s.Add(name, time.Minute, func(ctx context.Context) error {
			if ctx.Err() != nil {
				t.Errorf("%s: context has ended: %v", name, ctx.Err())
			}
			if _, ok := ctx.Deadline(); !ok {
				t.Errorf("%s: no deadline", name)
			}
			ran = append(ran, name)
			return err
		})
	}
	add("first", nil)
	add("second", boom)
	add("third", nil)

	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Run(ended, slog.New(slog.DiscardHandler)); !errors.Is(err, boom) {
		t.Errorf("error is %v", err)
	}
	if want := []string{"third", "second", "first"}; !slices.Equal(ran, want) {
		t.Errorf("ran %v, want %v", ran, want)
	}
	if err := s.Run(ended, slog.New(slog.DiscardHandler)); err != nil || len(ran) != 3 {
		t.Errorf("second run: %v, ran %v", err, ran)
	}
}

func TestReleasedStackRunsNothing(t *testing.T) {
	var s Stack
	s.Add("never", time.Second, func(context.Context) error { t.Error("ran"); return nil })
	s.Release()
	if err := s.Run(context.Background(), slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
}
