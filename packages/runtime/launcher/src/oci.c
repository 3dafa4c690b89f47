/* The OCI runtime (crun, runc): a process for each sandbox that starts, which ends when the sandbox runs. */
#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

pid_t oci_start(const char *id, int ready, const char *bundle)
{
	char pid_file[PATH_MAX], log[PATH_MAX];
	snprintf(pid_file, sizeof pid_file, "%s/%s/pid", RUN, id);
	snprintf(log, sizeof log, "%s/%s/log", RUN, id);
	char *const argv[] = { (char *)settings.oci_binary, "--root", OCI_STATE, "--log", log, "run", "--detach",
		"--preserve-fds", "1", "--pid-file", pid_file, "--bundle", (char *)bundle, (char *)id, NULL };
	char *const environment[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL };
	pid_t launcher = getpid(), pid = vfork();
	if (pid == 0) {
		/* It ends with us: what it would still make, nobody would know of. A group of its own is killed as a whole. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != launcher)
			_exit(127);
		setpgid(0, 0);
		sigset_t none;
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		int null = open("/dev/null", O_RDWR | O_CLOEXEC);
		dup2(null, 0);
		dup2(null, 1);
		dup2(null, 2);
		/* Descriptor 3 and no other reaches the agent. */
		if (ready == 3)
			fcntl(3, F_SETFD, 0);
		else
			dup2(ready, 3);
		execvpe(argv[0], argv, environment);
		_exit(127);
	}
	return pid;
}

/* The last words of the OCI runtime, for whoever asked. */
void oci_words(const char *id)
{
	char path[PATH_MAX], log[2048];
	snprintf(path, sizeof path, "%s/%s/log", RUN, id);
	ssize_t have = read_file(path, log, sizeof log);
	while (have > 0 && log[have - 1] == '\n')
		log[--have] = '\0';
	errno = 0;
	if (have > 0)
		fail("%s", log);
}
