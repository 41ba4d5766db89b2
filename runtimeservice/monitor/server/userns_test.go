package server

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func inUserNamespace() *configs.Config {
	ids := []configs.IDMap{{HostID: 1000, Size: 10}}
	c := &configs.Config{UIDMappings: ids, GIDMappings: ids}
	c.Namespaces.Add(configs.NEWUSER, "/pins/user")
	return c
}

func TestShareMapping(t *testing.T) {
	c := inUserNamespace()
	other := []configs.IDMap{{HostID: 5000, Size: 10}}
	c.Mounts = []*configs.Mount{
		{IDMapping: &configs.MountIDMapping{UIDMappings: c.UIDMappings, GIDMappings: c.GIDMappings, Recursive: true}},
		{IDMapping: &configs.MountIDMapping{UIDMappings: other, GIDMappings: c.GIDMappings}},
		{},
	}
	if err := forUserNamespace(c); err != nil {
		t.Fatal(err)
	}
	if m := c.Mounts[0].IDMapping; m.UserNSPath != "/pins/user" || m.UIDMappings != nil || m.GIDMappings != nil || !m.Recursive {
		t.Errorf("a mount that is mapped like the container has %v", m)
	}
	if m := c.Mounts[1].IDMapping; m.UserNSPath != "" || m.UIDMappings[0].HostID != 5000 {
		t.Errorf("one that is mapped otherwise has %v", m)
	}
	if c.Mounts[2].IDMapping != nil {
		t.Error("one that is not mapped has a mapping")
	}
}

// libcontainer would mount the node's device of that path, whichever it is.
func TestCheckBoundDevices(t *testing.T) {
	device := func(path string, minor int64) *config.Device {
		d := &config.Device{Path: path}
		d.Type, d.Major, d.Minor = config.CharDevice, 1, minor
		return d
	}
	for name, test := range map[string]struct {
		device *config.Device
		says   string
	}{
		"the node's":           {device("/dev/zero", 5), ""},
		"only a rule":          {device("", 9), ""},
		"another of that path": {device("/dev/null", 5), "not the node's"},
		"a path without one":   {device("/dev/no-such-device", 5), "no such file"},
	} {
		c := inUserNamespace()
		c.Devices = append(c.Devices, test.device)
		err := forUserNamespace(c)
		switch {
		case test.says == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.says != "" && (!errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), test.says)):
			t.Errorf("%s: %v", name, err)
		}
		c.Namespaces = nil
		if err := forUserNamespace(c); err != nil {
			t.Errorf("%s, without a user namespace: %v", name, err)
		}
	}
}

func TestWithoutMappings(t *testing.T) {
	ids := []specs.LinuxIDMapping{{HostID: 1000, Size: 10}}
	joins := &specs.Spec{Linux: &specs.Linux{
		Namespaces: []specs.LinuxNamespace{{Type: specs.UserNamespace, Path: "/pins/user"}}, UIDMappings: ids, GIDMappings: ids,
	}}
	if got := withoutMappings(joins); got.Linux.UIDMappings != nil || got.Linux.GIDMappings != nil {
		t.Errorf("the mappings are %v and %v", got.Linux.UIDMappings, got.Linux.GIDMappings)
	}
	if joins.Linux.UIDMappings == nil {
		t.Error("the specification itself was changed")
	}
	makes := &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.UserNamespace}}, UIDMappings: ids}}
	if withoutMappings(makes) != makes {
		t.Error("a namespace that is made lost its mappings")
	}
}
