/* What the C and the Go side of the cache share. */
#ifndef BERTH_SECCOMPCACHE_H
#define BERTH_SECCOMPCACHE_H

#include <stdint.h>

/* The descriptor at which the monitor keeps the table, for its inits to find. */
#define BERTH_TABLE_FD 1021
#define BERTH_TABLE_MAGIC 0x42534331u /* "1CSB" */
#define BERTH_TABLE_SIZE (1u << 20)

/* The table: this, then entries that take `used` bytes. */
struct berth_table {
	uint32_t magic;
	uint32_t used;
};

/* An entry: this, then the calls, then the program, each padded to 8 bytes. */
struct berth_entry {
	uint32_t calls_len;
	uint32_t program_len;
};

/* From here on this process writes the first filter it exports, as an entry, to
 * the descriptor, and ends. */
void berth_record_filter(int fd);

#endif
