package runtimeservice

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// checkpointJob is a checkpoint under way: a directory of ours, and what is made
// elsewhere. It is on disk before anything is made, so that the next start removes what a
// kill left.
type checkpointJob struct {
	// Partial is a file that grows beside the place of an archive.
	Partial string `json:"partial,omitempty"`
	// Output is a client's directory; Mark is in it as long as what else is in it is ours.
	Output string `json:"output,omitempty"`
	Mark   string `json:"mark,omitempty"`

	id, dir string
}

const jobFile = "job.json"

// beginCheckpoint writes down what is going to be made. The caller calls endCheckpoint,
// also after an error of what follows.
func (s *checkpoints) beginCheckpoint(job checkpointJob) (checkpointJob, error) {
	job.id = newID()
	job.dir = s.checkpointDir(job.id)
	data, err := json.Marshal(job)
	if err == nil {
		err = os.MkdirAll(job.dir, 0o700)
	}
	if err == nil {
		err = os.WriteFile(s.checkpointDir(job.id)+"."+jobFile, data, 0o600)
	}
	if err != nil {
		return job, fmt.Errorf("note that a checkpoint is under way: %w", errors.Join(err, s.endCheckpoint(job)))
	}
	return job, nil
}

// endCheckpoint removes what is left of a checkpoint that is done or given up; idempotent.
// In a client's directory it removes all, unless the mark is gone: then it is whole.
func (s *checkpoints) endCheckpoint(job checkpointJob) error {
	var errs []error
	if job.Partial != "" {
		errs = append(errs, ignoreMissing(os.Remove(job.Partial)))
	}
	if job.Output != "" {
		errs = append(errs, clearMarked(job.Output, job.Mark))
	}
	errs = append(errs, removeDump(job.dir))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return ignoreMissing(os.Remove(s.checkpointDir(job.id) + "." + jobFile))
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// clearMarked empties a directory that has the mark, which goes last.
func clearMarked(dir, mark string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return ignoreMissing(err)
	}
	defer root.Close()
	if _, err := root.Lstat(mark); err != nil {
		return ignoreMissing(err)
	}
	names, err := namesIn(root)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if name != mark {
			errs = append(errs, root.RemoveAll(name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove half a checkpoint: %w", err)
	}
	return root.Remove(mark)
}

func namesIn(root *os.Root) ([]string, error) {
	f, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// clearCheckpoints removes what checkpoints that were cut off have left, and what
// containers that are gone would have gone on from. It is called by Start.
func (s *checkpoints) clearCheckpoints() error {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return fmt.Errorf("look for checkpoints under way: %w", err)
	}
	for _, entry := range entries {
		id := entry.Name()
		if isID(id) {
			if _, ok := s.containers.get(id); !ok {
				s.leave(leftover{id: id, purge: s.removeCheckpoint})
			}
			continue
		}
		id = id[:min(len(id), idLength)]
		if !isID(id) || entry.Name() != id+"."+jobFile {
			continue
		}
		data, err := os.ReadFile(filepath.Join(s.root, entry.Name()))
		job := checkpointJob{}
		if err == nil {
			err = json.Unmarshal(data, &job)
		}
		if err != nil {
			// It was not written whole, so nothing was made.
			s.log.Warn("note of a checkpoint is not whole", "id", id, "error", err)
		}
		job.id, job.dir = id, s.checkpointDir(id)
		if err := s.endCheckpoint(job); err != nil {
			s.log.Error("remove what a checkpoint that was cut off has left", "error", err)
		}
	}
	return nil
}
