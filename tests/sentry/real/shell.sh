# What a shell does with processes, descriptors and signals.
for i in $(seq 1 5); do echo "$i"; done | sort -rn | tr '\n' ' '
cat <<END
here $((6 * 7)) $(echo nested "$(echo twice)")
END
cat <<<"here string"
while read -r a b; do echo "$b-$a"; done < <(printf 'x y\nz w\n')
trap 'echo trapped' USR1
kill -USR1 $$
(sleep 0.05; exit 3) & # likely to be waited for before it ends
wait $!
echo "status $?"
(read -r line; echo "read $line") < <(sleep 0.05; echo late) # likely to be read before it is written
set -m
sleep 60 & # until it is killed
jobs %1 >jobs
kill %1
wait %1
echo "job $? $(wc -l <jobs)"
set +m
(kill -STOP $BASHPID; exit 4) &
until [ "$(cut -d ' ' -f 3 /proc/$!/stat)" = T ]; do sleep 0.01; done
kill -CONT $!
wait $!
echo "continued $?"
coproc cat
pid=$COPROC_PID
echo hi >&"${COPROC[1]}"
read -r line <&"${COPROC[0]}"
kill "$pid"
wait "$pid"
echo "coprocess $line $?"
mkfifo fifo
cat fifo & echo through >fifo
wait
exec 5<>file
echo five >&5
exec 5>&-
cat file
timeout 0.1 sleep 60 # longer than its limit
echo "timeout $?"
yes | head -n 20000 | wc -l
set -o pipefail
false | true
echo "pipeline $? ${PIPESTATUS[*]}"
{ bash -c 'kill -9 $$'; } 2>errors
echo "killed $?"
(ulimit -n 10; ulimit -n)
umask 027
: >masked
stat -c %a masked
[ -t 0 ] || echo no terminal
tr '\0' ' ' </proc/$$/cmdline && readlink /proc/$$/exe /proc/self/exe
command -v no-such-program || echo "not found $?"
./no-such-file 2>errors
echo "no file $?"
echo "#!$BASH" >script
echo 'echo "$0 $# $2"; exit 6' >>script
chmod 755 script
./script a "b c"
echo "script $?"
trap 'echo the end' EXIT
exit 5
