#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

static int disabled;

/* It comes before the Go runtime, whose first pages would be huge ones. */
__attribute__((constructor)) static void start(int argc, char **argv)
{
	if (argc < 2 || strcmp(argv[1], "init") != 0 || prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) != 0)
		return;
	disabled = prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0;
}

void berth_end_small_pages(void *heap)
{
	/* The runtime takes 4 MiB at first; where none of that is nothing is advised. */
	const uintptr_t around = 4 << 20, page = 1 << 16;

	if (!disabled)
		return;
	(void)madvise((void *)(((uintptr_t)heap & ~(page - 1)) - around), 2 * around, MADV_NOHUGEPAGE);
	(void)prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
	disabled = 0;
}
