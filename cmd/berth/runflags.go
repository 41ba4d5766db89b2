package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

type runFlags struct {
	interactive, tty, detach, remove bool
	detachKeys                       string
	name, hostname, pull, creds      string
	logRoot, handler, cgroupParent   string
	stopTimeout                      time.Duration

	publish, volumes, devices    []string
	env, envFiles                []string
	labels, annotations, sysctls []string
	dns, dnsSearch, dnsOptions   []string
	net, pid, ipc                string

	entrypoint, user, workdir string
	stopSignal                string
	privileged, readOnly      bool
	noNewPrivileges           bool
	seccomp                   string
	capAdd, capDrop           []string
	cpus                      float64
	memory, cpuset            string
	supplementalGroups        []int64
}

const (
	pullMissing = "missing"
	pullAlways  = "always"
	pullNever   = "never"
)

func (f *runFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	f.addSession(flags)
	f.addPod(flags)
	f.addProcess(flags)
	addDetachKeys(cmd, &f.detachKeys)
	addCredentials(cmd, &f.creds)
	_ = cmd.RegisterFlagCompletionFunc("pull", cobra.FixedCompletions([]string{pullMissing, pullAlways, pullNever}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("net", cobra.FixedCompletions([]string{"pod", "host"}, cobra.ShellCompDirectiveNoFileComp))
}

func (f *runFlags) addSession(flags *pflag.FlagSet) {
	flags.BoolVarP(&f.interactive, "interactive", "i", false, "pass standard input on")
	flags.BoolVarP(&f.tty, "tty", "t", false, "give the container a terminal")
	flags.BoolVarP(&f.detach, "detach", "d", false, "print the container's ID and leave it running")
	flags.BoolVar(&f.remove, "rm", false, "remove the container, its pod and its log when it has ended")
	flags.StringVar(&f.pull, "pull", pullMissing, "when to pull the image: missing, always or never")
	durationVarP(flags, &f.stopTimeout, "stop-timeout", "", defaultStopTimeout, "how long the container has to end after Ctrl-C until it is killed")
	flags.StringVar(&f.logRoot, "log-dir", defaultRunLogRoot, "`folder` for the folders of logs")
}

func (f *runFlags) addPod(flags *pflag.FlagSet) {
	flags.StringVar(&f.name, "name", "", "name of the pod and of the container (default: made from the image's)")
	flags.StringVar(&f.hostname, "hostname", "", "host name of the pod (default: its name)")
	flags.StringVar(&f.handler, "runtime", "", "`HANDLER` that runs the pod, one of those that info shows")
	flags.StringVar(&f.cgroupParent, "cgroup-parent", "", "cgroup to put the pod into")
	flags.StringArrayVarP(&f.publish, "publish", "p", nil, "map a port: `[ADDRESS:]HOST:CONTAINER[/PROTOCOL]`; may be repeated")
	flags.StringArrayVarP(&f.labels, "label", "l", nil, "label of the pod and the container, `KEY=VALUE`; may be repeated")
	flags.StringArrayVar(&f.annotations, "annotation", nil, "annotation of the pod and the container, `KEY=VALUE`; may be repeated")
	flags.StringArrayVar(&f.sysctls, "sysctl", nil, "kernel parameter of the pod, `KEY=VALUE`; may be repeated")
	flags.StringArrayVar(&f.dns, "dns", nil, "name `server` of the pod; may be repeated")
	flags.StringArrayVar(&f.dnsSearch, "dns-search", nil, "`domain` to search; may be repeated")
	flags.StringArrayVar(&f.dnsOptions, "dns-option", nil, "resolver `option`; may be repeated")
	flags.StringVar(&f.net, "net", "pod", "network namespace: pod or host")
	flags.StringVar(&f.net, "network", "pod", "network namespace: pod or host")
	_ = flags.MarkHidden("network")
	flags.StringVar(&f.pid, "pid", "container", "PID namespace: container, pod or host")
	flags.StringVar(&f.ipc, "ipc", "pod", "IPC namespace: pod or host")
}

func (f *runFlags) addProcess(flags *pflag.FlagSet) {
	flags.StringVar(&f.entrypoint, "entrypoint", "", "program to run instead of the image's")
	flags.StringArrayVarP(&f.env, "env", "e", nil, "environment, `KEY=VALUE` or KEY for berth's own value; may be repeated")
	flags.StringArrayVar(&f.envFiles, "env-file", nil, "`file` with a line for each variable; may be repeated")
	flags.StringVarP(&f.user, "user", "u", "", "`USER[:GID]` to run as")
	flags.StringVarP(&f.workdir, "workdir", "w", "", "working folder")
	flags.StringArrayVarP(&f.volumes, "volume", "v", nil, "mount a path: `SOURCE:TARGET[:OPTIONS]`, with options ro, rro, z, rslave, rshared; may be repeated")
	flags.StringArrayVar(&f.devices, "device", nil, "give a device: `SOURCE[:TARGET[:PERMISSIONS]]`; may be repeated")
	flags.Float64Var(&f.cpus, "cpus", 0, "how many CPUs' time it may use")
	flags.StringVar(&f.cpuset, "cpuset-cpus", "", "which CPUs it may run on, like 0-2,4")
	flags.StringVarP(&f.memory, "memory", "m", "", "how much memory it may use, like 64m or 1g")
	flags.Int64SliceVar(&f.supplementalGroups, "group-add", nil, "additional `GID`; may be repeated")
	flags.BoolVar(&f.privileged, "privileged", false, "give it all capabilities and devices, and no confinement")
	flags.BoolVar(&f.readOnly, "read-only", false, "mount its root file system read-only")
	flags.BoolVar(&f.noNewPrivileges, "no-new-privileges", false, "keep it from gaining privileges")
	flags.StringArrayVar(&f.capAdd, "cap-add", nil, "`capability` to add; may be repeated")
	flags.StringArrayVar(&f.capDrop, "cap-drop", nil, "`capability` to drop; may be repeated")
	flags.StringVar(&f.seccomp, "seccomp", "default", "seccomp profile: default, unconfined or the `path` of one")
	flags.StringVar(&f.stopSignal, "stop-signal", "", "`signal` that asks it to end (default: the image's)")
}

func (f *runFlags) check() error {
	switch {
	case f.detach && f.remove:
		return errors.New("--detach and --rm exclude each other: there would be no one to remove the container; use `berth rm` later")
	case f.pull != pullMissing && f.pull != pullAlways && f.pull != pullNever:
		return fmt.Errorf("--pull %q is none of missing, always and never", f.pull)
	}
	return nil
}
