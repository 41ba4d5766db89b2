package config

import "reflect"

// Change is what a reload does.
type Change struct {
	// Config is the configuration in force from now on: the running one with
	// the new one's live keys.
	Config Config
	// Live keys have changed and are taken over.
	Live []string
	// Later keys have changed and wait for the next start.
	Later []string
}

// Reload compares a configuration that was loaded anew with the running one.
func Reload(running, loaded Config) Change {
	change := Change{Config: running}
	from, to := keys(&loaded), keys(&change.Config)
	for i, k := range to {
		switch {
		case !k.leaf || reflect.DeepEqual(k.value.Interface(), from[i].value.Interface()):
		case k.live:
			k.value.Set(from[i].value)
			change.Live = append(change.Live, k.path)
		default:
			change.Later = append(change.Later, k.path)
		}
	}
	return change
}
