package cni

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxHeld bounds the namespaces that are held. A node on which every DEL fails makes debts
// without end; those beyond are paid without their namespaces.
const maxHeld = 128

// holds keep the network namespaces of pods that owe a DEL, after the pods are gone. There are
// plugins that find what they have outside of the namespace only by what is in it: of a DEL
// without it the bridge plugin leaves the rules of its ipMasq behind.
type holds struct{ dir string }

func (h holds) path(podID string) string { return filepath.Join(h.dir, podID) }

// hold keeps the namespace at path alive and returns where it is from now on; "" if there is
// none any more, or none to be held. It is idempotent.
func (h holds) hold(podID, path string) (held string, err error) {
	held = h.path(podID)
	if path == held || liveNetNS(path) == "" {
		return "", nil
	}
	others, err := os.ReadDir(h.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("hold network namespace: %w", err)
	}
	if len(others) >= maxHeld {
		return "", nil
	}
	// What is there of an interrupted hold may be of an earlier namespace.
	if err := h.drop(podID); err != nil {
		return "", err
	}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return "", fmt.Errorf("hold network namespace: %w", err)
	}
	file, err := os.OpenFile(held, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o400)
	if err != nil {
		return "", fmt.Errorf("hold network namespace: %w", err)
	}
	_ = file.Close()
	if err := unix.Mount(path, held, "", unix.MS_BIND, ""); err != nil {
		return "", errors.Join(fmt.Errorf("hold network namespace %q at %q: %w", path, held, err), os.Remove(held))
	}
	return held, nil
}

// drop lets the namespace of a pod go. It is idempotent.
func (h holds) drop(podID string) error {
	path := h.path(podID)
	err := os.Remove(path)
	for errors.Is(err, unix.EBUSY) {
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("let network namespace go: unmount %s: %w", path, err)
		}
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("let network namespace go: %w", err)
	}
	return nil
}
