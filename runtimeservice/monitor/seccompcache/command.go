package seccompcache

// #include "cache.h"
import "C"

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
)

// Command is the argument with which the program is run to compile a profile.
const Command = "seccomp-filter"

// entryFD is where the compiled entry is written to.
const entryFD = 3

// Compile is the program's part: it reads a profile, has libcontainer build its
// filter, and ends the process when that has been written to descriptor 3. So it
// returns only when the profile cannot be compiled, with what is wrong with it.
func Compile(profile io.Reader) error {
	var config configs.Seccomp
	if err := json.NewDecoder(profile).Decode(&config); err != nil {
		return fmt.Errorf("read seccomp profile: %w", err)
	}
	C.berth_record_filter(entryFD)
	if _, err := seccomp.InitSeccomp(&config); err != nil {
		return err
	}
	return errors.New("libcontainer built no filter by libseccomp")
}
