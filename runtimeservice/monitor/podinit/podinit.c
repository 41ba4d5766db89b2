/*
 * The init process of a pod whose containers share a PID namespace. It runs
 * as a constructor, before the Go runtime exists, and never returns: in its
 * place the process would need megabytes and threads.
 *
 * Arguments: program pod-init <empty directory> <SELinux label or ""> [user <user
 * namespace fd>] <namespace fd>...
 *
 * Descriptor 3 is a socket. A byte on it lets the process begin (it is in its
 * cgroup by then); it closes the socket when it is ready, or sends the text of
 * an error before. The empty directory becomes its root.
 *
 * Without a user namespace the process is begun in its PID namespace. With one
 * it is begun outside, as the PID namespace has to be made from within the user
 * namespace: it does all that the node's root has to do, joins, has a second
 * process take its place, tells its ID as "\1<pid>\n", and ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined __has_include
#if __has_include(<sys/rseq.h>)
#include <sys/rseq.h>
#define BERTH_RSEQ
#endif
#endif

enum { control = 3 };

static void fail(const char *step)
{
	const char *why = strerrordesc_np(errno);

	if (write(control, step, strlen(step)) > 0 && write(control, ": ", 2) > 0 && why)
		(void)!write(control, why, strlen(why));
	_exit(1);
}

static void join_namespaces(char **fds)
{
	for (; *fds; fds++) {
		int fd = atoi(*fds);

		if (setns(fd, 0) < 0)
			fail("join namespace");
		close(fd);
	}
}

/* From here on the process is the root of the user namespace. */
static void join_user_namespace(int fd)
{
	if (setns(fd, CLONE_NEWUSER) < 0)
		fail("join user namespace");
	close(fd);
	if (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
		fail("become root of the user namespace");
}

/*
 * Goes on as process 1 of a new PID namespace, a child of the parent of this one,
 * which ends. The kernel's own call is used since the library's fork has no flags.
 */
static void enter_pid_namespace(void)
{
	char said[32];
	int n;
	long pid = syscall(SYS_clone, CLONE_PARENT | CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, NULL);

	if (pid < 0)
		fail("make PID namespace");
	if (pid == 0)
		return;
	n = snprintf(said, sizeof said, "\1%ld\n", pid);
	_exit(write(control, said, n) == n ? 0 : 1);
}

/* Nothing of the host stays visible through /proc/<pid>/root. */
static void leave_root(const char *empty)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		fail("make mounts private");
	if (mount(empty, empty, NULL, MS_BIND, NULL) < 0)
		fail("bind empty root");
	if (mount(NULL, empty, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		fail("make empty root read-only");
	if (chdir(empty) < 0)
		fail("enter empty root");
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		fail("pivot to empty root");
	if (umount2(".", MNT_DETACH) < 0)
		fail("detach root of the host");
	if (chdir("/") < 0)
		fail("enter new root");
}

/*
 * Goes over to the label of the pod's processes, which must not do what comes before.
 * proc is the node's /proc, as the process no longer sees it.
 */
static void take_label(int proc, const char *label)
{
	ssize_t size = strlen(label);
	int fd = openat(proc, "thread-self/attr/current", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, label, size) != size)
		fail("take SELinux label");
}

static void drop_privileges(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[2];
	int cap;

	for (cap = 0; cap < 64; cap++)
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			break;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		fail("set no_new_privs");
	memset(none, 0, sizeof none);
	if (syscall(SYS_capset, &header, none) < 0)
		fail("drop capabilities");
}

#if defined __x86_64__
#define BERTH_ARCH AUDIT_ARCH_X86_64
#elif defined __aarch64__
#define BERTH_ARCH AUDIT_ARCH_AARCH64
#endif

/*
 * From here on the process can make the system calls that it makes, and no other. It
 * is visible to the containers of the pod, and reads what they send.
 */
static void confine(void)
{
#ifdef BERTH_ARCH
#define ALLOW(call) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, BERTH_ARCH, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		/* to wait */
		ALLOW(SYS_rt_sigtimedwait), ALLOW(SYS_wait4), ALLOW(SYS_exit_group),
		/* to say that it is ready, or why not */
		ALLOW(SYS_close), ALLOW(SYS_write),
		/* to shrink */
		ALLOW(SYS_mmap), ALLOW(SYS_mprotect), ALLOW(SYS_munmap), ALLOW(SYS_rseq),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { sizeof rules / sizeof *rules, rules };

	/* A kernel without seccomp does without. */
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0 && errno != EINVAL)
		fail("filter system calls");
#endif
}

/* One system call without libc, as the loop below outlives it. */
static inline __attribute__((always_inline)) long call(long nr, long a, long b, long c, long d)
{
#if defined __x86_64__
	long result;
	register long r10 __asm__("r10") = d;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
			 : "rcx", "r11", "memory");
	return result;
#elif defined __aarch64__
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
#else
	return syscall(nr, a, b, c, d);
#endif
}

/*
 * Reaps what is left to process 1 and ends when somebody outside the pod asks
 * with SIGTERM: to senders from another PID namespace si_pid is 0, and a
 * container of the pod must not be able to end it.
 *
 * It is copied to a page of its own, so it calls nothing and has no constants
 * in memory. First it gives back all memory below and above the pages it keeps.
 */
__attribute__((section("podloop"), noinline, noreturn, used, no_stack_protector))
static void serve(unsigned long low, unsigned long high, unsigned long end)
{
	unsigned long set = ~0UL;
	siginfo_t info;

	if (end) {
		call(SYS_munmap, 0, low, 0, 0);
		call(SYS_munmap, high, end - high, 0, 0);
	}
	for (;;) {
		long sig = call(SYS_rt_sigtimedwait, (long)&set, (long)&info, 0, sizeof set);

		if (sig == SIGTERM && info.si_pid == 0)
			for (;;)
				call(SYS_exit_group, 0, 0, 0, 0);
		while (call(SYS_wait4, -1, 0, WNOHANG, 0) > 0)
			;
	}
}

extern const char __start_podloop[], __stop_podloop[];

/* The kernel writes into the area that libc has registered for this thread. */
static int leave_rseq(void)
{
#ifdef BERTH_RSEQ
	char *area = (char *)__builtin_thread_pointer() + __rseq_offset;

	if (__rseq_size == 0)
		return 0;
	return syscall(SYS_rseq, area, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG);
#else
	return 0;
#endif
}

/*
 * Runs the loop in a page for the code and one for the stack, and nothing else
 * mapped. Where that cannot be done it runs where it is.
 */
static void shrink(void)
{
	unsigned long page = sysconf(_SC_PAGESIZE);
	unsigned long size = __stop_podloop - __start_podloop;
	unsigned long entry = (unsigned long)serve - (unsigned long)__start_podloop;
	/* the end of the address space that every kernel of the machine has */
	unsigned long end = (1UL << (sizeof(long) == 8 ? 47 : 31)) - page;
	char *code;

#if !defined __x86_64__ && !defined __aarch64__
	return;
#endif
	if (size > page)
		return;
	code = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (code == MAP_FAILED)
		return;
	memcpy(code, __start_podloop, size);
	if (mprotect(code, page, PROT_READ | PROT_EXEC) < 0)
		return;
	__builtin___clear_cache(code, code + size);
	if (leave_rseq() < 0)
		return;
#if defined __x86_64__
	__asm__ volatile("mov %0, %%rsp\n\tpush $0\n\tjmp *%1"
			 :: "r"(code + 2 * page), "r"(code + entry),
			    "D"(code), "S"(code + 2 * page), "d"(end) : "memory");
#elif defined __aarch64__
	register unsigned long x0 __asm__("x0") = (unsigned long)code;
	register unsigned long x1 __asm__("x1") = (unsigned long)code + 2 * page;
	register unsigned long x2 __asm__("x2") = (1UL << 39) - page;

	__asm__ volatile("mov sp, %0\n\tbr %1"
			 :: "r"(code + 2 * page), "r"(code + entry), "r"(x0), "r"(x1), "r"(x2) : "memory");
	(void)end;
#endif
}

static void pod_init(char **argv)
{
	sigset_t all;
	char go;
	const char *label = argv[3];
	char **namespaces = argv + 4;
	int user = -1, proc = -1;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	prctl(PR_SET_NAME, "berth-pod", 0, 0, 0);
	if (read(control, &go, 1) != 1)
		_exit(1);
	if (*namespaces && strcmp(*namespaces, "user") == 0) {
		if (!namespaces[1])
			_exit(1);
		user = atoi(namespaces[1]);
		namespaces += 2;
	}
	if (*label && (proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
		fail("open /proc");
	join_namespaces(namespaces);
	leave_root(argv[2]);
	if (user >= 0) {
		join_user_namespace(user);
		enter_pid_namespace();
	}
	if (*label)
		take_label(proc, label);
	drop_privileges();
	if (syscall(SYS_close_range, 0, control - 1, 0) < 0 ||
	    syscall(SYS_close_range, control + 1, ~0U, 0) < 0)
		fail("close descriptors");
	confine();
	close(control);
	shrink();
	serve(0, 0, 0);
}

__attribute__((constructor)) static void start(int argc, char **argv)
{
	if (argc >= 4 && strcmp(argv[1], "pod-init") == 0)
		pod_init(argv);
}
