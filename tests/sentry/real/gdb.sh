# gdb: breakpoints, steps, calls, signals, and a program that runs already.
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
echo == breakpoints, steps, calls, changes, signals
debug -ex 'break main' -ex 'break twice if v == 41' -ex run -ex bt -ex next -ex 'print x' -ex continue -ex 'info args' -ex bt \
	-ex 'set var v = 50' -ex next -ex 'print x' -ex 'print twice(7)' -ex finish -ex stepi -ex 'print $eflags & 0x100' -ex next -ex next \
	-ex 'print half' -ex 'handle SIGUSR1 stop print pass' -ex continue -ex 'print $_siginfo.si_signo' -ex continue ./program |
	grep -v '/s\|"/'
echo == one that runs
sleep 100 & pid=$!
debug -p $pid -ex 'print 6 * 7' -ex 'print $_siginfo.si_signo' | tail -n 3
grep State /proc/$pid/status
kill $pid
wait $pid
