# rsync: copies with links, times and modes, below a folder and from a server on loopback.
mkdir -p t/a/b
for i in $(seq 20); do seq "$i" 500 >"t/a/$i"; done
ln t/a/1 t/hard && ln -s a/2 t/sym && mkfifo t/fifo
chmod 4711 t/a/3
touch -d '2001-02-03 04:05:06.123456789' t/a/4 t/a
rsync -aHAX --stats t/ u | grep '^Number'
diff -r --no-dereference t u
echo more >>t/a/7
rm t/a/8
touch -d 2001-02-04 t/a t/a/7
rsync -aHi --delete --checksum t/ u
rsync -a --link-dest="$PWD/u" t/ v
stat -c '%h %a %y' v/a/9 v/a/3 v/a/4 | sort | uniq -c | sort -n | tail -n 1 | cut -c 1-12
cat >configuration <<END
use chroot = no
uid = $(id -u)
gid = $(id -g)
log file = $PWD/log
[files]
path = $PWD/t
END
rsync --daemon --no-detach --port 8731 --config configuration &
until rsync rsync://127.0.0.1:8731/ 2>errors; do sleep 0.05; done
rsync -a rsync://127.0.0.1:8731/files/ w
diff -r --no-dereference t w && echo same
rsync rsync://127.0.0.1:8731/none/ 2>&1 | head -n 1
kill $!
wait $!
echo "server $?"
