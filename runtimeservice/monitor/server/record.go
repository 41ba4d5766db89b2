package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-cri/berth/runtimeservice/monitor/protocol"
)

// record is what the monitor knows about a container and what the next monitor
// has to know too. It is written before the container is started, and each time
// it changes.
type record struct {
	ID string `json:"id"`
	// PodInit says that this is the init of a pod and not a container.
	PodInit bool `json:"podInit,omitempty"`
	// Runtime is the program that runs the container; nil for libcontainer.
	Runtime *protocol.Runtime `json:"runtime,omitempty"`
	// Pid is 0 until the process runs.
	Pid int `json:"pid"`
	// StartTime is the process's, in clock ticks since boot.
	StartTime uint64    `json:"startTime"`
	StartedAt time.Time `json:"startedAt"`
	// Cgroups are the directories of the container by controller.
	Cgroups map[string]string `json:"cgroups,omitempty"`
	LogPath string            `json:"logPath,omitempty"`
	// Pipes are the inodes of the outputs, by stream, unless there is a terminal.
	Pipes    [2]uint64 `json:"pipes"`
	Terminal bool      `json:"terminal,omitempty"`
	// Owner are the user and the group to whom its pipes belong: its root.
	Owner     [2]int `json:"owner,omitzero"`
	Stdin     bool   `json:"stdin,omitempty"`
	StdinOnce bool   `json:"stdinOnce,omitempty"`
	// StdinClosed says that the input has ended for good.
	StdinClosed bool           `json:"stdinClosed,omitempty"`
	Exit        *protocol.Exit `json:"exit,omitempty"`
	// Frozen says that it stands still, or is about to, for as long as this monitor
	// wants it: the next one lets it go on.
	Frozen bool `json:"frozen,omitempty"`
	// Acked says that the client has taken note of Exit.
	Acked bool `json:"acked,omitempty"`
}

// records is the folder with one file per container.
type records struct {
	dir string
}

func (r records) path(id string) string {
	return filepath.Join(r.dir, id+".json")
}

// save replaces the record of a container. The folder is on a file system that
// a power loss empties, so nothing is synced.
func (r records) save(rec *record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("encode record of container: %w", err)
	}
	tmp := filepath.Join(r.dir, "."+rec.ID+".tmp")
	err = os.WriteFile(tmp, data, 0o600)
	if err == nil {
		err = os.Rename(tmp, r.path(rec.ID))
	}
	if err != nil {
		// On a full file system half a record would only take more room.
		return errors.Join(fmt.Errorf("write record of container: %w", err), ignoreNotExist(os.Remove(tmp)))
	}
	return nil
}

// remove deletes a record; it is no error if there is none.
func (r records) remove(id string) error {
	if err := ignoreNotExist(os.Remove(r.path(id))); err != nil {
		return fmt.Errorf("remove record of container: %w", err)
	}
	return nil
}

func ignoreNotExist(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// load returns all records, and those that cannot be read as errors.
func (r records) load() ([]*record, []error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, []error{fmt.Errorf("read records of containers: %w", err)}
	}
	var all []*record
	var errs []error
	for _, e := range entries {
		id, isRecord := strings.CutSuffix(e.Name(), ".json")
		if !isRecord || strings.HasPrefix(id, ".") {
			continue
		}
		rec := &record{}
		data, err := os.ReadFile(r.path(id))
		if err == nil {
			err = json.Unmarshal(data, rec)
		}
		if err == nil && rec.ID != id {
			err = fmt.Errorf("it is about %q", rec.ID)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read record of container %q: %w", id, err))
			continue
		}
		all = append(all, rec)
	}
	return all, errs
}
