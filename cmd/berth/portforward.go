package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-cri/berth/cmd/berth/internal/client"
	"github.com/berth-cri/berth/cmd/berth/internal/streams"
)

func (a *app) portForwardCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "port-forward POD [ADDRESS:]LOCAL:REMOTE...",
		Aliases: []string{"portforward"},
		Short:   "Make ports of a pod reachable on this machine",
		Long: `Listen on local ports and pass each connection to a port of the pod, until Ctrl-C.
ADDRESS is localhost if it is not given; LOCAL may be left out for any free port,
and a lone port is used on both sides.`,
		Example: `  berth port-forward web 8080:80
  berth port-forward web 0.0.0.0:8080:80 [::1]:8443:443`,
		Args:              minArgs(2, "a pod and ports"),
		ValidArgsFunction: a.completePods(1),
		RunE: a.connected(func(ctx context.Context, c *client.Client, args []string) error {
			forwards, err := parseForwards(args[1:])
			if err != nil {
				return err
			}
			pod, err := c.Pod(ctx, args[0])
			if err != nil {
				return err
			}
			return a.portForward(ctx, c, pod, forwards)
		}),
	}
}

type forward struct {
	address       string
	local, remote uint16
}

func (a *app) portForward(ctx context.Context, c *client.Client, pod *runtimeapi.PodSandbox, forwards []forward) error {
	req := &runtimeapi.PortForwardRequest{PodSandboxId: pod.Id}
	for _, f := range forwards {
		req.Port = append(req.Port, int32(f.remote))
	}
	forwarder := &streams.Forwarder{
		Target: func(ctx context.Context) (string, error) {
			resp, err := c.Runtime.PortForward(ctx, req)
			return resp.GetUrl(), err
		},
		Out: a.stdout, Err: a.stderr,
	}
	defer forwarder.Close()
	for _, f := range forwards {
		if err := forwarder.Listen(f.address, f.local, f.remote); err != nil {
			return err
		}
	}
	return forwarder.Serve(ctx)
}

func parseForwards(args []string) ([]forward, error) {
	list := make([]forward, 0, len(args))
	for _, arg := range args {
		address, local, remote, err := parseForward(arg)
		if err != nil {
			return nil, err
		}
		list = append(list, forward{address, local, remote})
	}
	return list, nil
}

func parseForward(arg string) (address string, local, remote uint16, err error) {
	address, rest := "localhost", arg
	if head, tail, ok := cutAddress(arg); ok {
		address, rest = head, tail
	}
	localText, remoteText, ok := strings.Cut(rest, ":")
	if !ok {
		remoteText = localText
	}
	if remote, err = parsePort(remoteText); err != nil {
		return "", 0, 0, fmt.Errorf("forward %q: %w", arg, err)
	}
	if localText != "" && localText != "0" {
		if local, err = parsePort(localText); err != nil {
			return "", 0, 0, fmt.Errorf("forward %q: %w", arg, err)
		}
	}
	if address != "localhost" && net.ParseIP(address) == nil {
		return "", 0, 0, fmt.Errorf("forward %q: %q is not an IP address", arg, address)
	}
	return address, local, remote, nil
}

// cutAddress splits ADDRESS:A:B, where ADDRESS may be IPv6 in brackets.
func cutAddress(s string) (address, rest string, ok bool) {
	if strings.HasPrefix(s, "[") {
		address, rest, ok = strings.Cut(s[1:], "]:")
		return address, rest, ok
	}
	if strings.Count(s, ":") < 2 {
		return "", s, false
	}
	return strings.Cut(s, ":")
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port from 1 to 65535", s)
	}
	return uint16(n), nil
}
