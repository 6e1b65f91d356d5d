# A program of several files by make -j, a library of each kind, and an error of the compiler.
for i in 1 2 3 4; do
	cat >"f$i.c" <<-END
		#include <stdio.h>
		#include "all.h"
		int f$i(int n) { printf("f$i %d\n", n * $i); return n + $i; }
	END
	echo "int f$i(int n);" >>all.h
done
cat >main.c <<'END'
#include <pthread.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
#include "all.h"
static void *sum(void *at) { long n = 0; for (long i = 0; i < 1000000; i++) n += i; *(long *)at = n; return at; }
int main(void)
{
	pthread_t threads[4];
	long sums[4];
	int n = 1, status;
	for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, sum, &sums[i]);
	for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL), printf("%ld\n", sums[i]);
	fflush(stdout);
	if (!fork()) _exit(7);
	wait(&status);
	printf("child %d\n", WEXITSTATUS(status));
	n = f1(n), n = f2(n), n = f3(n);
	return f4(n);
}
END
cat >Makefile <<'END'
OBJECTS = main.o f1.o f2.o f3.o f4.o
program: $(OBJECTS)
	@gcc -pthread -o $@ $(OBJECTS)
%.o: %.c all.h
	@gcc -O2 -Wall -c -o $@ $<
END
make -j 4
./program
echo "status $?"
touch -d 2001-01-01 ./*.[ch] ./*.o
make
ar rc library.a f?.o && ar t library.a
gcc -static -pthread -o static main.c library.a && ./static | md5sum
gcc -shared -fPIC -o libshared.so f?.c && gcc -pthread -o dynamic main.c -L. -lshared -Wl,-rpath,"$PWD" && ./dynamic | md5sum
gcc -c -o /dev/null -x c - <<<'int main( {'
echo "error $?"
