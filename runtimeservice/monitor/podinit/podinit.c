/*
 * The init process of a pod whose containers share a PID namespace. It runs
 * as a constructor, before the Go runtime exists, and never returns: in its
 * place the process would need megabytes and threads.
 *
 * Arguments: program pod-init <empty directory> <namespace fd>...
 *
 * Descriptor 3 is a socket. A byte on it lets the process begin (it is in its
 * cgroup by then); it closes the socket when it is ready, or sends the text of
 * an error before. The empty directory becomes its root.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

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

/*
 * Reaps what is left to process 1 and ends when somebody outside the pod asks
 * with SIGTERM: to senders from another PID namespace si_pid is 0, and a
 * container of the pod must not be able to end it.
 */
static void serve(void)
{
	sigset_t set;
	siginfo_t info;

	sigfillset(&set);
	for (;;) {
		int sig = sigwaitinfo(&set, &info);

		if (sig == SIGTERM && info.si_pid == 0)
			_exit(0);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

static void pod_init(char **argv)
{
	sigset_t all;
	char go;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	prctl(PR_SET_NAME, "berth-pod", 0, 0, 0);
	if (read(control, &go, 1) != 1)
		_exit(1);
	join_namespaces(argv + 3);
	leave_root(argv[2]);
	drop_privileges();
	if (syscall(SYS_close_range, 0, 2, 0) < 0)
		fail("close standard streams");
	close(control);
	serve();
}

__attribute__((constructor)) static void start(int argc, char **argv)
{
	if (argc >= 3 && strcmp(argv[1], "pod-init") == 0)
		pod_init(argv);
}
