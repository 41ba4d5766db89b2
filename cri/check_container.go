package cri

import (
	"bytes"
	"path"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func checkCreateContainer(r *runtimeapi.CreateContainerRequest) error {
	if err := requiredID("pod_sandbox_id", r.GetPodSandboxId()); err != nil {
		return err
	}
	if r.GetConfig() == nil {
		return invalid("config", "must be set")
	}
	if err := checkContainer("config", r.GetConfig(), checkContainerImage); err != nil {
		return err
	}
	if r.GetSandboxConfig() == nil {
		return invalid("sandbox_config", "must be set")
	}
	return checkSandboxConfig("sandbox_config", r.GetSandboxConfig())
}

// checkContainerConfig checks all that a container is made of.
func checkContainerConfig(path string, c *runtimeapi.ContainerConfig) error {
	return checkContainer(path, c, checkImage)
}

// checkContainer is checkContainerConfig with what checks the name of the image.
func checkContainer(path string, c *runtimeapi.ContainerConfig, image func(string, *runtimeapi.ImageSpec) error) error {
	if c.GetMetadata() == nil {
		return invalid(field(path, "metadata"), "must be set")
	}
	if err := first(
		requiredName(field(path, "metadata.name"), c.GetMetadata().GetName()),
		image(field(path, "image"), c.GetImage()),
		checkCommand(path, c),
		checkWorkingDir(field(path, "working_dir"), c.GetWorkingDir()),
		each(field(path, "envs"), c.GetEnvs(), checkEnv),
		each(field(path, "mounts"), c.GetMounts(), checkMount),
		each(field(path, "devices"), c.GetDevices(), checkDevice),
		labels(field(path, "labels"), c.GetLabels()),
		labels(field(path, "annotations"), c.GetAnnotations()),
		relativePath(field(path, "log_path"), c.GetLogPath()),
		checkResources(field(path, "linux.resources"), c.GetLinux().GetResources()),
		checkContainerSecurity(field(path, "linux.security_context"), c.GetLinux().GetSecurityContext()),
		enum(field(path, "stop_signal"), c.GetStopSignal()),
	); err != nil {
		return err
	}
	return each(field(path, "CDI_devices"), c.GetCDIDevices(), func(p string, d *runtimeapi.CDIDevice) error {
		return requiredWord(field(p, "name"), d.GetName())
	})
}

func checkCommand(path string, c *runtimeapi.ContainerConfig) error {
	if len(c.GetCommand()) > 0 && c.GetCommand()[0] == "" {
		return invalid(item(field(path, "command"), 0), "must not be empty")
	}
	return first(
		each(field(path, "command"), c.GetCommand(), argument),
		each(field(path, "args"), c.GetArgs(), argument),
	)
}

// checkWorkingDir refuses a directory that goes through an open file of some
// process (CVE-2024-21626). libcontainer looks again at where it ends up.
func checkWorkingDir(p, v string) error {
	if v == "" {
		return nil
	}
	if err := absolutePath(p, v); err != nil {
		return err
	}
	clean := path.Clean(v)
	elements := strings.Split(clean, "/")
	throughProc := len(elements) > 3 && elements[1] == "proc" &&
		(elements[3] == "fd" || elements[3] == "task" || elements[3] == "root" || elements[3] == "cwd")
	if throughProc || strings.HasPrefix(clean, "/dev/fd/") {
		return invalid(p, "%q leads through the open files of a process", shorten(v))
	}
	return nil
}

// checkEnv checks a variable. Its value may be a secret: an error does not repeat it.
func checkEnv(path string, e *runtimeapi.KeyValue) error {
	key, value := e.GetKey(), e.GetValue()
	if err := argument(field(path, "key"), key); err != nil {
		return err
	}
	switch {
	case key == "":
		return invalid(field(path, "key"), "must not be empty")
	case strings.ContainsRune(key, '='):
		return invalid(field(path, "key"), "%q contains '='", shorten(key))
	case bytes.IndexByte(value, 0) >= 0:
		return invalid(field(path, "value"), "contains a NUL byte")
	case len(key)+len("=")+len(value) > maxArgument:
		return invalid(field(path, "value"), "must not have more than %d bytes with the key", maxArgument)
	}
	return nil
}

func checkMount(p string, m *runtimeapi.Mount) error {
	if err := absolutePath(field(p, "container_path"), m.GetContainerPath()); err != nil {
		return err
	}
	if path.Clean(m.GetContainerPath()) == "/" {
		return invalid(field(p, "container_path"), "must not be the root directory")
	}
	if err := checkMountSource(p, m); err != nil {
		return err
	}
	if m.GetRecursiveReadOnly() {
		switch {
		case !m.GetReadonly():
			return invalid(field(p, "recursive_read_only"), "must not be set without readonly")
		case m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
			return invalid(field(p, "recursive_read_only"), "must not be set with a propagation other than PRIVATE")
		}
	}
	return first(
		enum(field(p, "propagation"), m.GetPropagation()),
		each(field(p, "uidMappings"), m.GetUidMappings(), checkIDMapping),
		each(field(p, "gidMappings"), m.GetGidMappings(), checkIDMapping),
		each(field(p, "mount_options"), m.GetMountOptions(), requiredWord),
	)
}

// checkMountSource checks that a mount has one source, a host path or an image.
func checkMountSource(p string, m *runtimeapi.Mount) error {
	if m.GetImage().GetImage() == "" {
		if m.GetImageSubPath() != "" {
			return invalid(field(p, "image_sub_path"), "must not be set without an image")
		}
		return absolutePath(field(p, "host_path"), m.GetHostPath())
	}
	if m.GetHostPath() != "" {
		return invalid(field(p, "host_path"), "must not be set together with an image")
	}
	return first(
		checkImage(field(p, "image"), m.GetImage()),
		relativePath(field(p, "image_sub_path"), m.GetImageSubPath()),
	)
}

func checkDevice(p string, d *runtimeapi.Device) error {
	if strings.Trim(d.GetPermissions(), "rwm") != "" || len(d.GetPermissions()) > len("rwm") {
		return invalid(field(p, "permissions"), "%q is more than the letters r, w and m", shorten(d.GetPermissions()))
	}
	return first(
		absolutePath(field(p, "container_path"), d.GetContainerPath()),
		descendingPath(field(p, "container_path"), d.GetContainerPath()),
		absolutePath(field(p, "host_path"), d.GetHostPath()),
	)
}

func checkUpdateResources(r *runtimeapi.UpdateContainerResourcesRequest) error {
	if err := requiredID("container_id", r.GetContainerId()); err != nil {
		return err
	}
	if r.GetLinux() == nil {
		return invalid("linux", "must be set")
	}
	return first(
		checkResources("linux", r.GetLinux()),
		labels("annotations", r.GetAnnotations()),
	)
}

func checkStopContainer(r *runtimeapi.StopContainerRequest) error {
	return first(
		requiredID("container_id", r.GetContainerId()),
		atLeast("timeout", r.GetTimeout(), 0),
	)
}
