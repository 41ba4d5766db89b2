package main

import (
	"strconv"
	"time"

	"github.com/spf13/pflag"
)

// durationFlag is a time with a unit, or a number of seconds, as docker and crictl
// have it.
type durationFlag struct{ d *time.Duration }

func durationVarP(flags *pflag.FlagSet, d *time.Duration, name, shorthand string, value time.Duration, usage string) {
	*d = value
	flags.VarP(durationFlag{d}, name, shorthand, usage)
}

func (f durationFlag) String() string {
	if f.d == nil {
		return "0s"
	}
	return f.d.String()
}

func (f durationFlag) Set(text string) error {
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		*f.d = time.Duration(seconds) * time.Second
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	*f.d = d
	return nil
}

func (durationFlag) Type() string { return "duration" }
