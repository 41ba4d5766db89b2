// Package integration holds the tests that drive a real berthd over its socket,
// with the kubelet's own client, and look at the result from inside the
// containers.
//
// They need root, and fail without it. The programs are those in the directory
// $BERTH_BIN, built by `make build cni-plugins`; without the variable they are
// built first. Everything else a test needs it makes itself: directories, a
// bridge, a registry on the loopback interface with images of busybox. No test
// reaches the Internet.
//
// Most tests share one daemon; each of them is followed by a check that nothing
// of it is left (leaks_test.go). Tests that kill, restart or configure a daemon
// have one of their own.
package integration
