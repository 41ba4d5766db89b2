//go:build cgo && linux && (amd64 || arm64)

#include "isal.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#if __has_include(<isa-l/igzip_lib.h>)

#include <isa-l/igzip_lib.h>

typedef void (*state_fn)(struct inflate_state *);
typedef int (*inflate_fn)(struct inflate_state *);

int berth_isal_open(struct berth_isal *lib) {
	void *handle = dlopen("libisal.so.2", RTLD_NOW | RTLD_LOCAL);
	if (!handle)
		return -1;
	lib->inflate_init = dlsym(handle, "isal_inflate_init");
	lib->inflate_reset = dlsym(handle, "isal_inflate_reset");
	lib->inflate = dlsym(handle, "isal_inflate");
	return lib->inflate_init && lib->inflate_reset && lib->inflate ? 0 : -1;
}

void *berth_isal_new(const struct berth_isal *lib) {
	struct inflate_state *s = malloc(sizeof(*s));
	if (!s)
		return NULL;
	memset(s, 0, sizeof(*s));
	((state_fn)lib->inflate_init)(s);
	return s;
}

void berth_isal_reset(const struct berth_isal *lib, void *state) {
	struct inflate_state *s = state;
	((state_fn)lib->inflate_reset)(s);
	// No header, which the caller has read, but a checksum at the end.
	s->crc_flag = ISAL_GZIP_NO_HDR_VER;
}

void berth_isal_free(void *state) { free(state); }

struct berth_isal_result berth_isal_decode(const struct berth_isal *lib, void *state,
		uint8_t *in, uint32_t in_len, uint8_t *out, uint32_t out_len) {
	struct inflate_state *s = state;
	struct berth_isal_result r = {BERTH_ISAL_OK, 0, 0, 0};
	s->next_in = in;
	s->avail_in = in_len;
	s->next_out = out;
	s->avail_out = out_len;
	int code = ((inflate_fn)lib->inflate)(s);
	if (code == ISAL_INCORRECT_CHECKSUM)
		r.code = BERTH_ISAL_CHECKSUM;
	else if (code < 0 || code == ISAL_NEED_DICT)
		r.code = BERTH_ISAL_INVALID;
	// After an error the library's counts are not always those of what it read.
	if (s->avail_in <= in_len && s->avail_out <= out_len) {
		r.consumed = in_len - s->avail_in;
		r.produced = out_len - s->avail_out;
	} else if (r.code == BERTH_ISAL_OK) {
		r.code = BERTH_ISAL_INVALID;
	}
	r.done = s->block_state == ISAL_BLOCK_FINISH;
	s->next_in = s->next_out = NULL;
	s->avail_in = s->avail_out = 0;
	return r;
}

#else // built without the library's header: as if it were never there

int berth_isal_open(struct berth_isal *lib) { return -1; }
void *berth_isal_new(const struct berth_isal *lib) { return NULL; }
void berth_isal_reset(const struct berth_isal *lib, void *state) {}
void berth_isal_free(void *state) {}
struct berth_isal_result berth_isal_decode(const struct berth_isal *lib, void *state,
		uint8_t *in, uint32_t in_len, uint8_t *out, uint32_t out_len) {
	struct berth_isal_result r = {BERTH_ISAL_INVALID, 0, 0, 0};
	return r;
}

#endif
