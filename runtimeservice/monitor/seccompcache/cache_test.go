package seccompcache

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/opencontainers/runc/libcontainer/configs"
	libseccomp "github.com/seccomp/libseccomp-golang"
)

// asInit makes the test binary build a filter as an init does, and write what the
// library exports to its standard output. The value says which filter.
const asInit = "SECCOMPCACHE_TEST_FILTER"

func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 2 && os.Args[1] == Command:
		fmt.Fprintln(os.Stderr, Compile(os.Stdin))
		os.Exit(1)
	case os.Getenv(asInit) != "":
		if err := export(os.Getenv(asInit)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

// export builds the filter of the same profile as profileFor, by the calls that
// libcontainer makes.
func export(which string) error {
	filter, err := libseccomp.NewFilter(libseccomp.ActErrno.SetReturnCode(1))
	if err != nil {
		return err
	}
	if err := filter.SetNoNewPrivsBit(false); err != nil {
		return err
	}
	for _, name := range strings.Split(which, ",") {
		call, err := libseccomp.GetSyscallFromName(name)
		if err != nil {
			return err
		}
		if err := filter.AddRule(call, libseccomp.ActAllow); err != nil {
			return err
		}
	}
	condition, err := libseccomp.MakeCondition(0, libseccomp.CompareMaskedEqual, 0x7e020000, 0)
	if err != nil {
		return err
	}
	call, err := libseccomp.GetSyscallFromName("clone")
	if err != nil {
		return err
	}
	if err := filter.AddRuleConditional(call, libseccomp.ActAllow, []libseccomp.ScmpCondition{condition}); err != nil {
		return err
	}
	return filter.ExportBPF(os.Stdout)
}

func profileFor(which string) []byte {
	errno := uint(1)
	profile := configs.Seccomp{DefaultAction: configs.Errno, DefaultErrnoRet: &errno}
	for _, name := range strings.Split(which, ",") {
		profile.Syscalls = append(profile.Syscalls, &configs.Syscall{Name: name, Action: configs.Allow})
	}
	profile.Syscalls = append(profile.Syscalls, &configs.Syscall{
		Name: "clone", Action: configs.Allow,
		Args: []*configs.Arg{{Index: 0, Value: 0x7e020000, ValueTwo: 0, Op: configs.MaskEqualTo}},
	})
	encoded, err := json.Marshal(profile)
	if err != nil {
		panic(err)
	}
	return encoded
}

// initExports is what an init of this process exports; with the table or without.
func initExports(t *testing.T, which string, table bool) []byte {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{asInit + "=" + which}
	if table {
		cmd.Env = append(cmd.Env, "_LIBCONTAINER_INITPIPE=0") // what tells an init from others
	}
	var text bytes.Buffer
	cmd.Stderr = &text
	program, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, text.String())
	}
	if len(program) == 0 || len(program)%8 != 0 {
		t.Fatalf("an init exports %d bytes, which is no BPF program", len(program))
	}
	return program
}

// The cache is one for a process, so this is one test.
func TestCache(t *testing.T) {
	cache, err := New("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	const which, other = "read,write,exit_group", "read,write"
	want := initExports(t, which, false)

	t.Run("an init compiles for itself what is not in the table", func(t *testing.T) {
		if got := initExports(t, which, true); !bytes.Equal(got, want) {
			t.Errorf("the filter differs from the one without a table")
		}
	})
	t.Run("an init finds what was added", func(t *testing.T) {
		if err := cache.Add(Key{1}, profileFor(which)); err != nil {
			t.Fatal(err)
		}
		if got := initExports(t, which, true); !bytes.Equal(got, want) {
			t.Errorf("the filter from the table differs from the library's")
		}
	})
	t.Run("what an init finds is the table's", func(t *testing.T) {
		// An entry that no library made: the program is another one than the calls
		// stand for.
		entry, err := compile("/proc/self/exe", profileFor(other))
		if err != nil {
			t.Fatal(err)
		}
		calls := binary.NativeEndian.Uint32(entry)
		program := entry[8+(calls+7)/8*8:]
		for i := range program {
			program[i] ^= 0xff
		}
		if err := cache.append(entry); err != nil {
			t.Fatal(err)
		}
		if got := initExports(t, other, true); !bytes.Equal(got, program) {
			t.Errorf("an init did not take the entry")
		}
		if got := initExports(t, which, true); !bytes.Equal(got, want) {
			t.Errorf("an init took the entry of another profile")
		}
	})
	t.Run("a profile is compiled once", func(t *testing.T) {
		used := cache.used
		if err := cache.Add(Key{1}, profileFor(which)); err != nil || cache.used != used {
			t.Errorf("%v; the table grew from %d to %d bytes", err, used, cache.used)
		}
	})
	t.Run("a bad profile is named", func(t *testing.T) {
		bad := profileFor(which)
		bad = bytes.Replace(bad, []byte(`"name":"clone"`), []byte(`"name":"write"`), 1)
		bad = bytes.Replace(bad, []byte(`"index":0`), []byte(`"index":9`), 1)
		err := cache.Add(Key{2}, bad)
		if err == nil {
			t.Fatal("no error")
		}
		if !strings.Contains(err.Error(), "argument") {
			t.Errorf("the error does not say what is wrong: %v", err)
		}
	})
	t.Run("a full table is no error", func(t *testing.T) {
		if err := cache.append(make([]byte, 2<<20)); err != nil {
			t.Error(err)
		}
	})
}
