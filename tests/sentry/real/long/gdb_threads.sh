# gdb: a child and a thread.
clean() {
	sed -E 's/0x[0-9a-f]{6,}/ADDR/g; s/(process|LWP|Process) [0-9]+/\1 N/g; s/process N\)/process)/; s/ +/ /g' |
		grep -Ev '^warning|debuginfod|libthread_db|^$|^\[(New Thread|Thread .*exited)'
}
cat > program.c <<'END'
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
static double half = 0.5;
static int twice(int v)
{
	int x = v * 2;
	return x + 1;
}
static void on_signal(int signal) { printf("signal %d\n", signal); fflush(stdout); }
static void *work(void *n) { return n; }
int main(void)
{
	int x = 41;
	pthread_t thread;
	int y = twice(x);
	half *= y;
	printf("y is %d, %g\n", y, half);
	fflush(stdout);
	signal(SIGUSR1, on_signal);
	raise(SIGUSR1);
	if (!fork())
		_exit(twice(2));
	wait(NULL);
	pthread_create(&thread, NULL, work, &y);
	pthread_join(thread, NULL);
	return y & 1;
}
END
gcc -g -O0 -pthread -o program program.c
debug() { gdb -batch -nx -ex 'set pagination off' "$@" 2>&1 | clean; }
echo == a child
debug -ex 'handle SIGUSR1 nostop noprint pass' -ex 'set follow-fork-mode child' -ex 'break twice if v == 2' -ex run -ex bt -ex 'print v' \
	-ex continue ./program | grep -v '^\[\|Detach\|SIGUSR1'
echo == a thread
debug -ex 'handle SIGUSR1 nostop noprint pass' -ex 'break work' -ex run -ex 'thread apply all bt 1' -ex delete -ex continue ./program |
	grep -E '^Thread|work|exited'
