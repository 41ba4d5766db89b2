package config

// million is the most a rate per million can be.
const million = 1_000_000

func (k *checker) tracing(c *Tracing) {
	k.hostPort("tracing.endpoint", c.Endpoint)
	if c.SamplingRatePerMillion < 0 || c.SamplingRatePerMillion > million {
		k.fail("tracing.samplingRatePerMillion", "%d is not between 0 and %d", c.SamplingRatePerMillion, million)
	}
	for _, file := range []struct{ key, path string }{
		{"tracing.caFile", c.CAFile}, {"tracing.certFile", c.CertFile}, {"tracing.keyFile", c.KeyFile},
	} {
		if file.path == "" {
			continue
		}
		if k.absPath(file.key, file.path) && c.Insecure {
			k.fail(file.key, "%q is of no use with tracing.insecure", file.path)
		}
	}
	switch {
	case c.CertFile != "" && c.KeyFile == "":
		k.fail("tracing.keyFile", "has to go with tracing.certFile %q", c.CertFile)
	case c.KeyFile != "" && c.CertFile == "":
		k.fail("tracing.certFile", "has to go with tracing.keyFile %q", c.KeyFile)
	}
}
