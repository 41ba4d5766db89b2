package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

func TestHangUpsAreNoErrors(t *testing.T) {
	var out bytes.Buffer
	t.Cleanup(klog.ClearLogger)
	log := func(level slog.Level) {
		out.Reset()
		klog.SetSlogLogger(slog.New(streamLog{slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level})}))
		klog.Background().WithName("streams").Error(fmt.Errorf("read: %w", net.ErrClosed), "client left")
		klog.Background().Error(errors.New("boom"), "something broke")
	}
	log(slog.LevelInfo)
	if s := out.String(); strings.Contains(s, "client left") || !strings.Contains(s, "level=ERROR") || !strings.Contains(s, "something broke") {
		t.Errorf("log:\n%s", s)
	}
	log(slog.LevelDebug)
	if s := out.String(); !strings.Contains(s, "client left") || strings.Count(s, "level=ERROR") != 1 {
		t.Errorf("log for debugging:\n%s", s)
	}
}
