// Command bench measures a container runtime over its CRI socket, or two runtimes in
// turn (A B A B …) so that noise of the machine hits both alike. It prints a table and
// can write the figures as JSON and as a bar chart.
//
//	bench -runtime berth=unix:///run/berth/berth.sock,berthd,berth-monitor \
//	      -runtime containerd=unix:///run/containerd/containerd.sock,containerd,containerd-shim,pause
//
// What follows a runtime's socket are the names of its processes, whose memory counts
// as the runtime's; NAME@TEXT is one whose command line holds the text.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line's.
type options struct {
	runtimes []string
	trees    []string
	registry string
	pause    string
	image    string
	pods     int
	samples  int
	rounds   int
	networks string
	only     string
	pulls    string
	json     string
	svg      string
	markdown string
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.Func("runtime", "NAME=SOCKET[,PROCESS…], once or twice", func(s string) error {
		o.runtimes = append(o.runtimes, s)
		return nil
	})
	flags.Func("pull-tree", "NAME=DIR: measure cold pulls of images cut from this directory, and igzip -d | tar -x of the same layers; may repeat", func(s string) error {
		o.trees = append(o.trees, s)
		return nil
	})
	flags.StringVar(&o.registry, "registry", "127.0.0.1:0", "loopback address that the images are served on")
	flags.StringVar(&o.pause, "pause", "", "also serve this static program as the image bench/pause, which some runtimes start in each pod")
	flags.StringVar(&o.image, "image", "", "image of the pods, with a sleep command; built from /bin/busybox and served on loopback when empty")
	flags.IntVar(&o.pods, "pods", 60, "pods that run while lists, stats and memory are measured")
	flags.IntVar(&o.samples, "samples", 30, "samples of each latency")
	flags.IntVar(&o.rounds, "rounds", 3, "rounds over which the samples are spread, the runtimes taking turns")
	flags.StringVar(&o.networks, "networks", "host,cni", "networks to measure pods with")
	flags.StringVar(&o.only, "only", "pods,exec,density,pull", "groups to measure")
	flags.StringVar(&o.pulls, "pulls", "", "only the images whose name contains this text")
	flags.StringVar(&o.json, "json", "", "write the figures to this file")
	flags.StringVar(&o.svg, "svg", "", "write a bar chart to this file")
	flags.StringVar(&o.markdown, "markdown", "", "write the table, the machine and the versions to this file")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if len(o.runtimes) == 0 || len(o.runtimes) > 2 {
		return o, errors.New("give -runtime once or twice")
	}
	return o, nil
}

func run(ctx context.Context, args []string) error {
	opts, err := parse(args)
	if err != nil {
		return err
	}
	registry, err := startRegistry(opts.registry)
	if err != nil {
		return err
	}
	defer registry.Close()
	if opts.pause != "" {
		if _, err := registry.addProgram("bench/pause", opts.pause, nil); err != nil {
			return err
		}
	}
	if opts.image == "" {
		if opts.image, err = registry.addProgram("bench/busybox", "/bin/busybox", []string{"sh", "sleep", "true"}); err != nil {
			return err
		}
	}
	var targets []*target
	for _, r := range opts.runtimes {
		t, err := connect(ctx, r)
		if err != nil {
			return err
		}
		defer t.close()
		targets = append(targets, t)
	}
	report := newReport(targets)
	if err := measure(ctx, opts, registry, targets, report); err != nil {
		return err
	}
	return report.write(opts)
}

// measure runs the chosen groups one after the other.
func measure(ctx context.Context, opts options, registry *imageRegistry, targets []*target, report *report) error {
	for _, t := range targets {
		if _, err := t.pull(ctx, opts.image); err != nil {
			return fmt.Errorf("%s: pull %s: %w", t.name, opts.image, err)
		}
	}
	wanted := func(group string) bool { return strings.Contains(","+opts.only+",", ","+group+",") }
	for _, network := range strings.Split(opts.networks, ",") {
		load := workload{image: opts.image, hostNetwork: network == "host", label: network}
		if wanted("pods") {
			if err := measurePods(ctx, opts, load, targets, report); err != nil {
				return err
			}
		}
	}
	load := workload{image: opts.image, hostNetwork: true, label: "host"}
	if wanted("exec") {
		if err := measureExec(ctx, opts, load, targets, report); err != nil {
			return err
		}
	}
	if wanted("density") {
		if err := measureDensity(ctx, opts, load, targets, report); err != nil {
			return err
		}
	}
	if wanted("pull") {
		for _, tree := range opts.trees {
			if err := measurePull(ctx, registry, opts, tree, targets, report); err != nil {
				return err
			}
		}
	}
	return nil
}
