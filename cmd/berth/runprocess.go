package main

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"

	units "github.com/docker/go-units"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// parseEnv reads the files first, then KEY=VALUE or KEY, which takes berth's
// own value; what comes later wins, as in the container.
func parseEnv(files, list []string) ([]*runtimeapi.KeyValue, error) {
	var all []string
	for _, path := range files {
		lines, err := readEnvFile(path)
		if err != nil {
			return nil, err
		}
		all = append(all, lines...)
	}
	var envs []*runtimeapi.KeyValue
	for _, e := range append(all, list...) {
		key, value, ok := strings.Cut(e, "=")
		if key == "" {
			return nil, fmt.Errorf("environment %q is not KEY=VALUE or KEY", e)
		}
		if !ok {
			if value, ok = os.LookupEnv(key); !ok {
				continue
			}
		}
		envs = append(envs, &runtimeapi.KeyValue{Key: key, Value: []byte(value)})
	}
	return envs, nil
}

func readEnvFile(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read environment: %w", err)
	}
	defer f.Close()
	var lines []string
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		line := strings.TrimLeft(scanner.Text(), " \t")
		if line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("read environment from %s: %w", path, err)
	}
	return lines, nil
}

// setUser reads USER[:GROUP]: a user by name or number, a group by number,
// which is all that CRI can say.
func setUser(sc *runtimeapi.LinuxContainerSecurityContext, arg string) error {
	if arg == "" {
		return nil
	}
	user, group, hasGroup := strings.Cut(arg, ":")
	if user == "" {
		return fmt.Errorf("user %q has no name or number", arg)
	}
	if uid, err := strconv.ParseUint(user, 10, 32); err == nil {
		sc.RunAsUser = &runtimeapi.Int64Value{Value: int64(uid)}
	} else {
		sc.RunAsUsername = user
	}
	if !hasGroup {
		return nil
	}
	gid, err := strconv.ParseUint(group, 10, 32)
	if err != nil {
		return fmt.Errorf("user %q: the group has to be a number", arg)
	}
	sc.RunAsGroup = &runtimeapi.Int64Value{Value: int64(gid)}
	return nil
}

const (
	cpuPeriod = 100_000 // microseconds, the kernel's default
	cpuShares = 1024    // for one CPU
	minQuota  = 1_000   // microseconds, the kernel's minimum
)

func parseResources(cpus float64, memory, cpuset string) (*runtimeapi.LinuxContainerResources, error) {
	r := &runtimeapi.LinuxContainerResources{CpusetCpus: cpuset}
	if cpus < 0 || math.IsNaN(cpus) || math.IsInf(cpus, 0) {
		return nil, fmt.Errorf("--cpus %v is not a number of CPUs", cpus)
	}
	if cpus > 0 {
		r.CpuPeriod = cpuPeriod
		r.CpuQuota = max(int64(cpus*cpuPeriod), minQuota)
		r.CpuShares = max(int64(cpus*cpuShares), 2)
	}
	if memory != "" {
		bytes, err := units.RAMInBytes(memory)
		if err != nil || bytes <= 0 {
			return nil, fmt.Errorf("--memory %q is not a size like 64m or 1g", memory)
		}
		r.MemoryLimitInBytes = bytes
	}
	return r, nil
}

// parseStopSignal reads a signal by name, with or without SIG, or by number.
func parseStopSignal(s string) (runtimeapi.Signal, error) {
	if s == "" {
		return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT, nil
	}
	name := strings.ToUpper(s)
	if n, err := strconv.Atoi(s); err == nil {
		name = signalName(n)
	}
	name = strings.NewReplacer("+", "PLUS", "-", "MINUS").Replace(strings.TrimPrefix(name, "SIG"))
	if v, ok := runtimeapi.Signal_value["SIGNAL_SIG"+name]; ok {
		return runtimeapi.Signal(v), nil
	}
	return 0, fmt.Errorf("--stop-signal %q is not a signal", s)
}
