/*
 * libcontainer builds its seccomp filter with libseccomp in every init, and for a
 * profile of hundreds of system calls that takes longer than all the rest of a
 * container's start. The program that comes out depends on nothing but the calls
 * to the library, so it is kept, and found again by exactly those calls.
 *
 * The linker puts the functions below in the place of libseccomp's (--wrap). Calls
 * that build a filter are written down; rules are not given to the library yet.
 * When the filter is exported, the calls are looked up in a table that the monitor
 * keeps. If they are in there, so is the program. If not, the library gets the
 * rules after all and everything is as if this file did not exist.
 *
 * One filter is built at a time, by one thread, architectures before rules, with no
 * other functions than these: that is what libcontainer does. A filter that is built
 * otherwise goes to the library call by call.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache.h"

scmp_filter_ctx __real_seccomp_init(uint32_t action);
int __real_seccomp_reset(scmp_filter_ctx ctx, uint32_t action);
void __real_seccomp_release(scmp_filter_ctx ctx);
int __real_seccomp_arch_add(scmp_filter_ctx ctx, uint32_t arch);
int __real_seccomp_arch_remove(scmp_filter_ctx ctx, uint32_t arch);
int __real_seccomp_attr_set(scmp_filter_ctx ctx, enum scmp_filter_attr attr, uint32_t value);
int __real_seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int syscall,
				  unsigned int n, const struct scmp_arg_cmp *args);
int __real_seccomp_export_bpf(const scmp_filter_ctx ctx, int fd);
int __real_seccomp_load(const scmp_filter_ctx ctx);

enum kind { INIT = 1, ARCH_ADD, ARCH_REMOVE, ATTRIBUTE, RULE };

/* One call as it is written down; a rule's conditions follow it. All bytes are
 * set, so that equal calls have equal bytes. */
struct call {
	uint32_t kind;
	uint32_t a;
	int32_t b;
	uint32_t n;
};

struct condition {
	uint32_t arg;
	uint32_t op;
	uint64_t a;
	uint64_t b;
};

/* The filter that is being built. ctx is NULL when there is none, or when it
 * cannot be written down and goes to the library call by call. */
static struct {
	scmp_filter_ctx ctx;
	int has_rules;
	uint8_t *calls;
	size_t len;
	size_t cap;
} filter;

static const struct berth_table *table;
static int record_fd = -1;

/* Runs before libcontainer's constructor, which leaves the mount namespace in which
 * /proc is the node's. The mapping is inherited by the processes that come of it,
 * until one executes the container's command. */
__attribute__((constructor(101))) static void find_table(void)
{
	char path[64];
	struct stat st;
	int fd;
	void *map;

	if (getenv("_LIBCONTAINER_INITPIPE") == NULL)
		return;
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)getppid(), BERTH_TABLE_FD);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0 && st.st_size == BERTH_TABLE_SIZE) {
		map = mmap(NULL, BERTH_TABLE_SIZE, PROT_READ, MAP_SHARED, fd, 0);
		if (map != MAP_FAILED)
			table = map;
	}
	close(fd);
	if (table != NULL && table->magic != BERTH_TABLE_MAGIC)
		table = NULL;
}

void berth_record_filter(int fd)
{
	record_fd = fd;
}

static size_t padded(size_t len)
{
	return (len + 7) & ~(size_t)7;
}

static void forget(void)
{
	free(filter.calls);
	memset(&filter, 0, sizeof(filter));
}

/* Room for more bytes of the filter's calls; NULL when there is no memory. */
static void *more(size_t len)
{
	uint8_t *at;

	if (filter.len + len > filter.cap) {
		size_t cap = filter.cap ? 2 * filter.cap : 16384;
		uint8_t *calls;

		while (cap < filter.len + len)
			cap *= 2;
		calls = realloc(filter.calls, cap);
		if (calls == NULL)
			return NULL;
		filter.calls = calls;
		filter.cap = cap;
	}
	at = filter.calls + filter.len;
	filter.len += len;
	return at;
}

static int replay(void);

/* Writes a call down. When that is not possible the library gets what was written
 * so far, and the filter is the library's alone from there on. */
static int note(enum kind kind, uint32_t a, int32_t b, unsigned int n, const struct scmp_arg_cmp *args)
{
	struct call call = { .kind = kind, .a = a, .b = b, .n = n };
	uint8_t *at = more(sizeof(call) + n * sizeof(struct condition));
	unsigned int i;

	if (at == NULL)
		return replay() == 0 ? 1 : -ENOMEM;
	memcpy(at, &call, sizeof(call));
	at += sizeof(call);
	for (i = 0; i < n; i++) {
		struct condition c = { args[i].arg, args[i].op, args[i].datum_a, args[i].datum_b };

		memcpy(at, &c, sizeof(c));
		at += sizeof(c);
	}
	return 0;
}

/* Gives the rules that were written down to the library. */
static int replay(void)
{
	const uint8_t *at = filter.calls, *end = filter.calls + filter.len;
	int rc = 0;

	while (rc == 0 && at < end) {
		struct scmp_arg_cmp args[6];
		struct call call;
		unsigned int i;

		memcpy(&call, at, sizeof(call));
		at += sizeof(call);
		for (i = 0; i < call.n; i++) {
			struct condition c;

			memcpy(&c, at, sizeof(c));
			at += sizeof(c);
			args[i] = (struct scmp_arg_cmp){ c.arg, c.op, c.a, c.b };
		}
		if (call.kind == RULE)
			rc = __real_seccomp_rule_add_array(filter.ctx, call.a, call.b, call.n, args);
	}
	filter.ctx = NULL;
	return rc;
}

static const struct berth_entry *find(void)
{
	uint32_t used, at = 0;

	if (table == NULL)
		return NULL;
	used = __atomic_load_n(&table->used, __ATOMIC_ACQUIRE);
	while (at + sizeof(struct berth_entry) <= used) {
		const struct berth_entry *e = (const void *)((const uint8_t *)(table + 1) + at);

		if (e->calls_len == filter.len && memcmp(e + 1, filter.calls, filter.len) == 0)
			return e;
		at += sizeof(*e) + padded(e->calls_len) + padded(e->program_len);
	}
	return NULL;
}

static int write_all(int fd, const void *data, size_t len)
{
	const uint8_t *at = data;

	while (len > 0) {
		ssize_t n = write(fd, at, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Writes the entry of the filter to record_fd and ends the process. */
static void record(const scmp_filter_ctx ctx)
{
	static const uint8_t zeros[8];
	struct berth_entry e = { .calls_len = (uint32_t)filter.len };
	int memory = memfd_create("filter", MFD_CLOEXEC);
	struct stat st;
	void *program;

	if (memory < 0 || __real_seccomp_export_bpf(ctx, memory) != 0 || fstat(memory, &st) != 0)
		_exit(1);
	program = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, memory, 0);
	if (program == MAP_FAILED)
		_exit(1);
	e.program_len = (uint32_t)st.st_size;
	_exit(write_all(record_fd, &e, sizeof(e)) || write_all(record_fd, filter.calls, filter.len) ||
	      write_all(record_fd, zeros, padded(filter.len) - filter.len) ||
	      write_all(record_fd, program, e.program_len) ||
	      write_all(record_fd, zeros, padded(e.program_len) - e.program_len));
}

scmp_filter_ctx __wrap_seccomp_init(uint32_t action)
{
	scmp_filter_ctx ctx = __real_seccomp_init(action);

	if (ctx != NULL && filter.ctx == NULL) {
		forget();
		filter.ctx = ctx;
		note(INIT, action, 0, 0, NULL);
	}
	return ctx;
}

/* Whoever resets or loads a filter wants the library's own. */
int __wrap_seccomp_reset(scmp_filter_ctx ctx, uint32_t action)
{
	if (ctx != NULL && ctx == filter.ctx)
		forget();
	return __real_seccomp_reset(ctx, action);
}

int __wrap_seccomp_load(const scmp_filter_ctx ctx)
{
	int rc = ctx == filter.ctx && ctx != NULL ? replay() : 0;

	return rc ? rc : __real_seccomp_load(ctx);
}

void __wrap_seccomp_release(scmp_filter_ctx ctx)
{
	if (ctx == filter.ctx)
		forget();
	__real_seccomp_release(ctx);
}

/* Rules hold for the architectures that are there when they are added, so these may
 * not come behind rules that the library does not have yet. */
static int note_arch(enum kind kind, scmp_filter_ctx ctx, uint32_t arch)
{
	if (ctx != filter.ctx)
		return 0;
	if (filter.has_rules)
		return replay();
	note(kind, arch, 0, 0, NULL);
	return 0;
}

int __wrap_seccomp_arch_add(scmp_filter_ctx ctx, uint32_t arch)
{
	int rc = note_arch(ARCH_ADD, ctx, arch);

	return rc ? rc : __real_seccomp_arch_add(ctx, arch);
}

int __wrap_seccomp_arch_remove(scmp_filter_ctx ctx, uint32_t arch)
{
	int rc = note_arch(ARCH_REMOVE, ctx, arch);

	return rc ? rc : __real_seccomp_arch_remove(ctx, arch);
}

int __wrap_seccomp_attr_set(scmp_filter_ctx ctx, enum scmp_filter_attr attr, uint32_t value)
{
	if (ctx == filter.ctx)
		note(ATTRIBUTE, attr, (int32_t)value, 0, NULL);
	return __real_seccomp_attr_set(ctx, attr, value);
}

int __wrap_seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int syscall,
				  unsigned int n, const struct scmp_arg_cmp *args)
{
	/* Six arguments is what a system call can have, and what replay has room for. */
	if (ctx == filter.ctx && n <= 6) {
		int rc = note(RULE, action, syscall, n, args);

		filter.has_rules = 1;
		/* Who records wants to be told of a bad rule when it comes. */
		if (rc < 0 || (rc == 0 && record_fd < 0))
			return rc;
	}
	return __real_seccomp_rule_add_array(ctx, action, syscall, n, args);
}

int __wrap_seccomp_export_bpf(const scmp_filter_ctx ctx, int fd)
{
	const struct berth_entry *e;
	int rc;

	if (ctx == NULL || ctx != filter.ctx)
		return __real_seccomp_export_bpf(ctx, fd);
	if (record_fd >= 0)
		record(ctx);
	e = find();
	if (e != NULL)
		return write_all(fd, (const uint8_t *)(e + 1) + padded(e->calls_len), e->program_len);
	rc = replay();
	return rc ? rc : __real_seccomp_export_bpf(ctx, fd);
}
