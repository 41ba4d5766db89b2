//go:build cgo && linux && (amd64 || arm64)

package inflate

/*
#cgo LDFLAGS: -ldl
#include "isal.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"
)

// found is the library's functions, or nil.
var found = sync.OnceValue(func() *C.struct_berth_isal {
	lib := new(C.struct_berth_isal)
	if C.berth_isal_open(lib) != 0 {
		return nil
	}
	return lib
})

func nativeFound() bool { return found() != nil }

// isal is one stream of the library.
type isal struct {
	lib   *C.struct_berth_isal
	state unsafe.Pointer
}

// newNative returns nil where there is no library, or no memory for its state.
func newNative() deflater {
	lib := found()
	if lib == nil {
		return nil
	}
	state := C.berth_isal_new(lib)
	if state == nil {
		return nil
	}
	return &isal{lib: lib, state: state}
}

var (
	errDeflate  = errors.New("invalid deflate data")
	errChecksum = errors.New("checksum differs")
)

func (d *isal) decode(in, out []byte) (consumed, produced int, done bool, err error) {
	r := C.berth_isal_decode(d.lib, d.state,
		(*C.uint8_t)(unsafe.SliceData(in)), C.uint32_t(len(in)),
		(*C.uint8_t)(unsafe.SliceData(out)), C.uint32_t(len(out)))
	switch r.code {
	case C.BERTH_ISAL_OK:
	case C.BERTH_ISAL_CHECKSUM:
		err = errChecksum
	default:
		err = fmt.Errorf("%w (%d)", errDeflate, int(r.code))
	}
	return int(r.consumed), int(r.produced), r.done != 0, err
}

func (d *isal) reset() { C.berth_isal_reset(d.lib, d.state) }

func (d *isal) close() {
	C.berth_isal_free(d.state)
	d.state = nil
}
