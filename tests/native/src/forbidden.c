// SPDX-License-Identifier: Apache-2.0
/*
 * Under the filter of pyvmm-fsd, make the system call whose number and three arguments are given. Exits with 0 when it came
 * back, whatever it said; a forbidden one ends the process with SIGSYS.
 */
#include "fsd/fsd.h"

#include <stdlib.h>
#include <unistd.h>

/* What fsd_isolate.c does before. */
#include <sys/prctl.h>

int main(int argc, char **argv)
{
	long arg[4] = { 0 };

	for (int i = 0; i < 4 && i + 1 < argc; i++)
		arg[i] = strtol(argv[i + 1], NULL, 0);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || isolate_seccomp())
		_exit(2);
	syscall(arg[0], arg[1], arg[2], arg[3]);
	_exit(0);
}
