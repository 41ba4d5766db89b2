package server

import (
	"fmt"
	"maps"

	"github.com/opencontainers/cgroups"

	"github.com/berth-cri/berth/runtimeservice/monitor/pidfd"
	"github.com/berth-cri/berth/runtimeservice/monitor/podinit"
	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// startPodInit starts the init process of a pod, or joins such a start.
func (s *Server) startPodInit(req *protocol.StartPodInit) (*container, error) {
	c, _, err := s.startOnce(req.ID, func(c *container) error { return c.startPodInit(req) })
	return c, err
}

func (c *container) startPodInit(req *protocol.StartPodInit) (err error) {
	var undo undo
	defer func() {
		if err != nil {
			undo.run()
			err = fmt.Errorf("start init of pod %q: %w", c.id, err)
		}
	}()
	undo.add(c.release)
	c.mu.Lock()
	c.rec = record{ID: c.id, PodInit: true}
	c.mu.Unlock()
	group, err := podCgroup(req)
	if err != nil {
		return err
	}
	if group != nil {
		c.mu.Lock()
		c.rec.Cgroups = maps.Clone(group.GetPaths())
		c.mu.Unlock()
		undo.add(func() {
			_ = emptyCgroup(c.rec.Cgroups)
			_ = group.Destroy()
		})
	}
	undo.add(func() { _ = c.server.records.remove(c.id) })
	c.mu.Lock()
	err = c.save()
	c.mu.Unlock()
	if err != nil {
		return err
	}
	process, err := podinit.Start(podinit.Config{
		EmptyDir:   c.server.emptyDir(),
		Namespaces: nonEmpty(req.IPC, req.UTS, req.Net),
		User:       req.User,
		Label:      req.Label,
		Place:      placeIn(group, c),
	})
	if err != nil {
		return err
	}
	fd, err := pidfd.Open(process.Pid)
	if err == nil {
		err = c.running(process.Pid, fd, process)
	}
	if err != nil {
		_ = process.Kill()
		_, _ = process.Wait()
	}
	return err
}

// podCgroup makes the manager of the cgroup of a pod's init; nil without one.
func podCgroup(req *protocol.StartPodInit) (cgroups.Manager, error) {
	if req.CgroupsPath == "" {
		return nil, nil
	}
	if err := checkCgroup(req.CgroupsPath, req.SystemdCgroup); err != nil {
		return nil, err
	}
	return cgroupManager(req.ID, req.CgroupsPath, req.SystemdCgroup)
}

func placeIn(group cgroups.Manager, c *container) func(int) error {
	if group == nil {
		return nil
	}
	return func(pid int) error {
		if err := group.Apply(pid); err != nil {
			return err
		}
		// systemd's manager knows its paths only now.
		c.mu.Lock()
		defer c.mu.Unlock()
		c.rec.Cgroups = maps.Clone(group.GetPaths())
		return nil
	}
}

func nonEmpty(all ...string) []string {
	var some []string
	for _, s := range all {
		if s != "" {
			some = append(some, s)
		}
	}
	return some
}
