package protocol

import "fmt"

// String is the method's name, for logs and traces.
func (m Method) String() string {
	if int(m) < len(methodNames) && methodNames[m] != "" {
		return methodNames[m]
	}
	return fmt.Sprintf("method %d", uint8(m))
}

var methodNames = [...]string{
	MethodHello:        "hello",
	MethodInfo:         "info",
	MethodUpgrade:      "upgrade",
	MethodList:         "list",
	MethodAdopt:        "adopt",
	MethodAck:          "acknowledge exit",
	MethodStart:        "start",
	MethodStartPodInit: "start pod init",
	MethodSignal:       "signal",
	MethodUpdate:       "update",
	MethodDelete:       "delete",
	MethodReopenLog:    "reopen log",
	MethodExec:         "exec",
	MethodKillExec:     "kill exec",
	MethodAttach:       "attach",
	MethodResize:       "resize",
	MethodFetch:        "fetch",
	MethodFreeze:       "freeze",
	MethodDump:         "dump",
	MethodThaw:         "thaw",
}
