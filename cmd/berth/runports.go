package main

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// parsePublish reads [ADDRESS:]HOST:CONTAINER[/PROTOCOL], where both ports may
// be ranges of the same length.
func parsePublish(arg string) ([]*runtimeapi.PortMapping, error) {
	ports, protocolName, _ := strings.Cut(arg, "/")
	protocol, err := parseProtocol(protocolName)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", arg, err)
	}
	address := ""
	if head, rest, ok := cutAddress(ports); ok {
		address, ports = head, rest
		if net.ParseIP(address) == nil {
			return nil, fmt.Errorf("port %q: %q is not an IP address", arg, address)
		}
	}
	host, container, ok := strings.Cut(ports, ":")
	if !ok {
		return nil, fmt.Errorf("port %q is not [ADDRESS:]HOST:CONTAINER[/PROTOCOL]", arg)
	}
	hostFirst, hostLast, err := parsePortRange(host)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", arg, err)
	}
	first, last, err := parsePortRange(container)
	if err != nil {
		return nil, fmt.Errorf("port %q: %w", arg, err)
	}
	if hostLast-hostFirst != last-first {
		return nil, fmt.Errorf("port %q: the two ranges differ in length", arg)
	}
	var list []*runtimeapi.PortMapping
	for i := int32(0); i <= last-first; i++ {
		list = append(list, &runtimeapi.PortMapping{
			Protocol: protocol, HostIp: address, HostPort: hostFirst + i, ContainerPort: first + i,
		})
	}
	return list, nil
}

func parseProtocol(name string) (runtimeapi.Protocol, error) {
	if name == "" {
		return runtimeapi.Protocol_TCP, nil
	}
	p, ok := runtimeapi.Protocol_value[strings.ToUpper(name)]
	if !ok {
		return 0, fmt.Errorf("protocol %q is none of tcp, udp and sctp", name)
	}
	return runtimeapi.Protocol(p), nil
}

func parsePortRange(s string) (first, last int32, err error) {
	head, tail, isRange := strings.Cut(s, "-")
	if !isRange {
		tail = head
	}
	low, err := parsePort(head)
	if err != nil {
		return 0, 0, err
	}
	high, err := parsePort(tail)
	if err != nil {
		return 0, 0, err
	}
	if high < low {
		return 0, 0, fmt.Errorf("port range %s ends before it begins", strconv.Quote(s))
	}
	return int32(low), int32(high), nil
}
