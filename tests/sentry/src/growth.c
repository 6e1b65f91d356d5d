// SPDX-License-Identifier: Apache-2.0
/* Writes behind the end of the sandbox's memory, which processes for programs have as their descriptors. */
#include <unistd.h>

int main(void)
{
	pwrite(0, "", 1, 1l << 32);
	pwrite(1, "", 1, 1l << 32);
	write(2, "done\n", 5);
	pause();
	return 0;
}
