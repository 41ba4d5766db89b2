#include <stdint.h>

// The functions of libisal that are used.
struct berth_isal {
	void *inflate_init;
	void *inflate_reset;
	void *inflate;
};

enum { BERTH_ISAL_OK = 0, BERTH_ISAL_CHECKSUM = 1, BERTH_ISAL_INVALID = 2 };

struct berth_isal_result {
	int32_t code;
	int32_t done;
	uint32_t consumed;
	uint32_t produced;
};

// berth_isal_open finds the library; it returns 0 when it is there.
int berth_isal_open(struct berth_isal *lib);
void *berth_isal_new(const struct berth_isal *lib);
void berth_isal_reset(const struct berth_isal *lib, void *state);
void berth_isal_free(void *state);
// berth_isal_decode keeps no pointer to in or out.
struct berth_isal_result berth_isal_decode(const struct berth_isal *lib, void *state,
	uint8_t *in, uint32_t in_len, uint8_t *out, uint32_t out_len);
