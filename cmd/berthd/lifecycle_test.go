package main

import (
	"testing"

	"github.com/berth-cri/berth/config"
)

func TestLiveKeysNeedSomebody(t *testing.T) {
	s := &surface{live: map[string]func(config.Config){}}
	err := s.checkReload()
	if err == nil {
		t.Fatal("no error though nothing takes over anything")
	}
	for _, k := range config.Keys() {
		if k.Live {
			s.OnReload(k.Path, func(config.Config) {})
		}
	}
	if err := s.checkReload(); err != nil {
		t.Error(err)
	}
}
