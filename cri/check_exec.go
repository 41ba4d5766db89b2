package cri

import (
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func checkExecSync(r *runtimeapi.ExecSyncRequest) error {
	return first(
		requiredID("container_id", r.GetContainerId()),
		checkArgv("cmd", r.GetCmd()),
		atLeast("timeout", r.GetTimeout(), 0),
	)
}

func checkExec(r *runtimeapi.ExecRequest) error {
	return first(
		requiredID("container_id", r.GetContainerId()),
		checkArgv("cmd", r.GetCmd()),
		checkAttachment(r.GetTty(), r.GetStdin(), r.GetStdout(), r.GetStderr()),
	)
}

func checkAttach(r *runtimeapi.AttachRequest) error {
	return first(
		requiredID("container_id", r.GetContainerId()),
		checkAttachment(r.GetTty(), r.GetStdin(), r.GetStdout(), r.GetStderr()),
	)
}

func checkPortForward(r *runtimeapi.PortForwardRequest) error {
	if len(r.GetPort()) > maxPorts {
		return invalid("port", "must not have more than %d elements", maxPorts)
	}
	return first(
		requiredID("pod_sandbox_id", r.GetPodSandboxId()),
		each("port", r.GetPort(), func(path string, port int32) error {
			return between(path, int64(port), 1, 65535)
		}),
	)
}

// checkArgv checks a command that has to be there.
func checkArgv(path string, argv []string) error {
	if len(argv) == 0 {
		return invalid(path, "must not be empty")
	}
	if argv[0] == "" {
		return invalid(item(path, 0), "must not be empty")
	}
	return each(path, argv, argument)
}

// checkAttachment checks which streams a session has.
func checkAttachment(tty, stdin, stdout, stderr bool) error {
	if tty && stderr {
		return invalid("stderr", "must not be set together with tty: a terminal has one output")
	}
	if !stdin && !stdout && !stderr {
		return invalid("stdin", "one of stdin, stdout and stderr must be set")
	}
	return nil
}
