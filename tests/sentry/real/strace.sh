# strace: what programs call, of several processes and threads, with changed results, and of one that runs already.
clean() {
	sed -E 's/0x[0-9a-f]{3,}/ADDR/g; s/= [0-9]{1,7}$/= N/; s/si_pid=[0-9]+/si_pid=N/; s/Process [0-9]+/Process N/; s/(et_tid_address.*=|getpp?id.*=) .*/\1 N/' |
		grep -Ev '^(rseq|getrandom|--- SIGCHLD|rt_sigreturn|wait4.*ERESTARTSYS)'
}
strace -ff -o out sh -c 'echo hi | cat'
for file in $(ls out.* | sort -t. -k2n); do
	echo ==
	clean < $file
done
cat > threads.c <<'END'
#include <pthread.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
static void *work(void *n) { syscall(SYS_getpgid, (long)n); return n; }
int main(void)
{
	pthread_t t[4];
	for (long i = 0; i < 4; i++) pthread_create(t + i, NULL, work, (void *)(90000 + i));
	for (long i = 0; i < 4; i++) pthread_join(t[i], NULL);
	puts("done");
	return 3;
}
END
gcc -pthread -o threads threads.c
strace -ff -o thread ./threads
echo "status $?"
cat thread.* | grep -Eo 'getpgid\(.*|\+\+\+ .*|write.*' | sort
strace -e trace=getuid -e inject=getuid:retval=77 -e quiet=all id -u 2> /dev/null
strace -o injected -e trace=openat -e inject=openat:error=EACCES:when=3+ cat threads.c
echo "status $?"
grep -c INJECTED injected
sleep 100 & pid=$!
strace -e trace=kill -p $pid > attached 2>&1 & tracer=$!
until grep -q 'TracerPid:.*[1-9]' /proc/$pid/status; do :; done
kill $pid
wait $pid
echo "status $?"
wait $tracer
clean < attached
strace -e trace=execve -e signal=USR1 sh -c 'trap "echo trapped" USR1; kill -USR1 $$' 2>&1 | clean | sed 's/ADDR .*vars.*/ADDR)/'
strace -c -o table true
grep -Eo 'execve|total' table
