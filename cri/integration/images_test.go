package integration

import (
	"fmt"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

// Names of the images in the registry; set by pushImages.
var (
	busybox string
	// entrypointImage has an entry point, a command, an environment, a working
	// directory, a user and a stop signal.
	entrypointImage string
)

func pushImages() error {
	base, err := imagetest.Busybox()
	if err != nil {
		return err
	}
	if busybox, err = registry.Push("busybox", "latest", base); err != nil {
		return err
	}
	with := *base
	with.Config.Config.Entrypoint = []string{"/bin/echo", "entrypoint"}
	with.Config.Config.Cmd = []string{"image command"}
	with.Config.Config.Env = []string{"PATH=/bin:/usr/bin", "FROM_IMAGE=yes", "BOTH=image"}
	with.Config.Config.WorkingDir = "/home/app"
	with.Config.Config.User = "app"
	with.Config.Config.StopSignal = "SIGUSR1"
	if entrypointImage, err = registry.Push("entrypoint", "v1", &with); err != nil {
		return fmt.Errorf("push the image with an entry point: %w", err)
	}
	return nil
}
