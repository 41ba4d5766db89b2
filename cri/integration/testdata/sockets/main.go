// Command sockets tells which families of sockets it may have: each argument is a family's number.
package main

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
)

func main() {
	for _, arg := range os.Args[1:] {
		family, err := strconv.Atoi(arg)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		kind := syscall.SOCK_STREAM
		if family == syscall.AF_ALG {
			kind = syscall.SOCK_SEQPACKET
		}
		_, err = syscall.Socket(family, kind, 0)
		fmt.Printf("%d: %v\n", family, err)
	}
}
