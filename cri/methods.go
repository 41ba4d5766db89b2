package cri

import (
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// changing are the calls that change something on the node. Exec, Attach and
// PortForward are among them: what they open can.
var changing = map[string]bool{
	runtimeapi.RuntimeService_RunPodSandbox_FullMethodName:             true,
	runtimeapi.RuntimeService_StopPodSandbox_FullMethodName:            true,
	runtimeapi.RuntimeService_RemovePodSandbox_FullMethodName:          true,
	runtimeapi.RuntimeService_CreateContainer_FullMethodName:           true,
	runtimeapi.RuntimeService_StartContainer_FullMethodName:            true,
	runtimeapi.RuntimeService_StopContainer_FullMethodName:             true,
	runtimeapi.RuntimeService_RemoveContainer_FullMethodName:           true,
	runtimeapi.RuntimeService_UpdateContainerResources_FullMethodName:  true,
	runtimeapi.RuntimeService_ReopenContainerLog_FullMethodName:        true,
	runtimeapi.RuntimeService_ExecSync_FullMethodName:                  true,
	runtimeapi.RuntimeService_Exec_FullMethodName:                      true,
	runtimeapi.RuntimeService_Attach_FullMethodName:                    true,
	runtimeapi.RuntimeService_PortForward_FullMethodName:               true,
	runtimeapi.RuntimeService_UpdateRuntimeConfig_FullMethodName:       true,
	runtimeapi.RuntimeService_CheckpointContainer_FullMethodName:       true,
	runtimeapi.RuntimeService_CheckpointPod_FullMethodName:             true,
	runtimeapi.RuntimeService_RestorePod_FullMethodName:                true,
	runtimeapi.RuntimeService_UpdatePodSandboxResources_FullMethodName: true,
	runtimeapi.ImageService_PullImage_FullMethodName:                   true,
	runtimeapi.ImageService_RemoveImage_FullMethodName:                 true,
	"/berth.v1.Containers/Commit":                                      true,
	"/berth.v1.Containers/CopyIn":                                      true,
}

// changes tells whether a call changes something, by its full method name.
func changes(fullMethod string) bool { return changing[fullMethod] }

// methodName is the last part of a full method name.
func methodName(fullMethod string) string {
	return fullMethod[strings.LastIndexByte(fullMethod, '/')+1:]
}
