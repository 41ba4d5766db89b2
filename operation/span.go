package operation

// Span is an operation or a stage in a trace. The package that makes traces
// implements it; this one depends on none.
type Span interface {
	// Child begins a span within this one.
	Child(name string) Span
	// Set adds an attribute.
	Set(key, value string)
	// End ends the span, as failed if err is not nil.
	End(err error)
}

// The attributes of an operation's span, by the semantic conventions of
// OpenTelemetry where those have a name.
const (
	attrNamespace   = "k8s.namespace.name"
	attrPod         = "k8s.pod.name"
	attrUID         = "k8s.pod.uid"
	attrSandboxID   = "berth.sandbox.id"
	attrContainer   = "k8s.container.name"
	attrContainerID = "container.id"
	attrImage       = "container.image.name"
)

// tell sets the attributes that have changed.
func (s Subject) tell(before Subject, span Span) {
	for _, a := range []struct{ key, before, now string }{
		{attrNamespace, before.Namespace, s.Namespace},
		{attrPod, before.Pod, s.Pod},
		{attrUID, before.UID, s.UID},
		{attrSandboxID, before.SandboxID, s.SandboxID},
		{attrContainer, before.Container, s.Container},
		{attrContainerID, before.ContainerID, s.ContainerID},
		{attrImage, before.Image, s.Image},
	} {
		if a.now != a.before {
			span.Set(a.key, a.now)
		}
	}
}
