// Package seccompcache spares the inits of containers the work of compiling their
// seccomp filters. A program that imports it, and that is monitor and init in one,
// compiles each profile once (Cache.Add, in the monitor) and finds the result again
// in every init (cache.c, which tells how).
package seccompcache

// #cgo CFLAGS: -Wall -Wextra -Werror
// #cgo LDFLAGS: -lseccomp
// #cgo LDFLAGS: -Wl,--wrap=seccomp_init -Wl,--wrap=seccomp_reset -Wl,--wrap=seccomp_release
// #cgo LDFLAGS: -Wl,--wrap=seccomp_arch_add -Wl,--wrap=seccomp_arch_remove -Wl,--wrap=seccomp_attr_set
// #cgo LDFLAGS: -Wl,--wrap=seccomp_rule_add_array -Wl,--wrap=seccomp_export_bpf -Wl,--wrap=seccomp_load
// #include "cache.h"
import "C"

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// compileTimeout bounds the compilation of one profile, which takes some 20 ms.
const compileTimeout = 30 * time.Second

// Key identifies a profile: the digest of its encoding.
type Key [sha256.Size]byte

// Cache is the table of compiled filters, in memory that every init of this process
// can read. A process has at most one.
type Cache struct {
	compile func(profile []byte) ([]byte, error)

	mu       sync.Mutex
	profiles map[Key]*profile
	used     uint32 // bytes of entries in the table
}

// profile is the outcome of one compilation.
type profile struct {
	done chan struct{}
	err  error
}

// New makes an empty table. program is this program, which compiles when it is run
// with Command as its only argument.
func New(program string) (*Cache, error) {
	if _, err := unix.FcntlInt(C.BERTH_TABLE_FD, unix.F_GETFD, 0); err == nil {
		return nil, fmt.Errorf("descriptor %d is in use", C.BERTH_TABLE_FD)
	}
	fd, err := unix.MemfdCreate("berth-seccomp", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, C.BERTH_TABLE_SIZE); err != nil {
		return nil, os.NewSyscallError("ftruncate", err)
	}
	if err := unix.Dup3(fd, C.BERTH_TABLE_FD, unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("dup3", err)
	}
	c := &Cache{
		compile:  func(profile []byte) ([]byte, error) { return compile(program, profile) },
		profiles: map[Key]*profile{},
	}
	return c, c.writeHeader()
}

// Add compiles the profile (libcontainer's, as JSON) if that was not done before, and
// returns when inits find it. The error says what is wrong with the profile. A table
// that is full is no error: the inits compile for themselves then.
func (c *Cache) Add(key Key, encoded []byte) error {
	c.mu.Lock()
	p := c.profiles[key]
	if p != nil {
		c.mu.Unlock()
		<-p.done
		return p.err
	}
	p = &profile{done: make(chan struct{})}
	c.profiles[key] = p
	c.mu.Unlock()
	defer close(p.done)
	entry, err := c.compile(encoded)
	if err != nil {
		p.err = fmt.Errorf("compile seccomp profile: %w", err)
		c.forget(key)
		return p.err
	}
	p.err = c.append(entry)
	return p.err
}

// forget lets the next Add of a profile try again.
func (c *Cache) forget(key Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.profiles, key)
}

// append writes the entry behind the others, and then that it is there.
func (c *Cache) append(entry []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if C.sizeof_struct_berth_table+int(c.used)+len(entry) > C.BERTH_TABLE_SIZE {
		return nil
	}
	if _, err := unix.Pwrite(C.BERTH_TABLE_FD, entry, C.sizeof_struct_berth_table+int64(c.used)); err != nil {
		return os.NewSyscallError("pwrite", err)
	}
	c.used += uint32(len(entry))
	return c.writeHeader()
}

func (c *Cache) writeHeader() error {
	header := binary.NativeEndian.AppendUint32(nil, C.BERTH_TABLE_MAGIC)
	header = binary.NativeEndian.AppendUint32(header, c.used)
	_, err := unix.Pwrite(C.BERTH_TABLE_FD, header, 0)
	return os.NewSyscallError("pwrite", err)
}

// compile has the program compile the profile and returns the table's entry.
func compile(program string, profile []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), compileTimeout)
	defer cancel()
	result, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer result.Close()
	defer theirs.Close()
	var entry, text bytes.Buffer
	cmd := exec.CommandContext(ctx, program, Command)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stderr = bytes.NewReader(profile), &text
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	theirs.Close()
	_, readErr := entry.ReadFrom(result)
	if err := cmd.Wait(); err != nil {
		if text.Len() > 0 {
			return nil, errors.New(string(bytes.TrimSpace(text.Bytes())))
		}
		return nil, err
	}
	return entry.Bytes(), readErr
}
