// Command demoregistry serves one image, made of the machine's static busybox,
// from a container registry on the loopback interface. It prints the image's name
// and serves until it is asked to end, so that the demo needs no registry on the
// Internet.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/berth-cri/berth/imageservice/imagetest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "demoregistry: %v\n", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context) error {
	registry, err := imagetest.Serve("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer registry.Close()
	image, err := imagetest.Busybox()
	if err != nil {
		return err
	}
	name, err := registry.Push("demo/busybox", "latest", image)
	if err != nil {
		return err
	}
	fmt.Println(name)
	<-ctx.Done()
	return nil
}
