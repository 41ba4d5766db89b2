package config

import (
	"reflect"
	"testing"
)

// Exactly the keys that are marked live reach the running configuration.
func TestReloadTakesOverLiveKeys(t *testing.T) {
	running, loaded := Default(), Default()
	fillWithOthers(&loaded)
	change := Reload(running, loaded)

	var live, later []string
	runningKeys, loadedKeys := keys(&running), keys(&loaded)
	for i, k := range keys(&change.Config) {
		if !k.leaf || k.path == "apiVersion" || k.path == "kind" {
			continue
		}
		want := runningKeys[i].value.Interface()
		if k.live {
			want = loadedKeys[i].value.Interface()
			live = append(live, k.path)
		} else {
			later = append(later, k.path)
		}
		if !reflect.DeepEqual(k.value.Interface(), want) {
			t.Errorf("%s is %v, want %v", k.path, k.value, want)
		}
	}
	if !reflect.DeepEqual(change.Live, live) || !reflect.DeepEqual(change.Later, later) {
		t.Errorf("live %v, later %v; want %v and %v", change.Live, change.Later, live, later)
	}
	if len(live) == 0 {
		t.Error("no key is live")
	}
}

func TestReloadOfTheSame(t *testing.T) {
	change := Reload(Default(), Default())
	if len(change.Live)+len(change.Later) != 0 || !reflect.DeepEqual(change.Config, Default()) {
		t.Errorf("change is %+v", change)
	}
}
