package spec

import "strings"

// passedAnnotations are the annotations of the pod and the container that the
// configuration lets through; the container's win.
func passedAnnotations(in *Input) map[string]string {
	if len(in.Defaults.Annotations) == 0 {
		return nil
	}
	out := make(map[string]string)
	for _, from := range []map[string]string{in.Sandbox.GetAnnotations(), in.Container.GetAnnotations()} {
		for k, v := range from {
			if allowed(in.Defaults.Annotations, k) {
				out[k] = v
			}
		}
	}
	return out
}

func allowed(patterns []string, name string) bool {
	for _, p := range patterns {
		prefix, wild := strings.CutSuffix(p, "*")
		if name == p || wild && strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}
