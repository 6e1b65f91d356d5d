# Coreutils, util-linux and tar, with what few programs use: sparse files, holes, times in nanoseconds, temporary files.
set -u
export TZ=UTC
exec 2>&1
tmp=$TMPDIR/coreutils
mkdir "$tmp"
echo "-- sort and split"
seq 20000 | awk '{ print ($1 * 7919) % 10007, $1 }' >n
sort -n -S 50k -T "$tmp" n | md5sum
sort -n --parallel=4 -S 200k -k2 n | uniq -c | md5sum
split -n l/7 n p && cat p* | cmp - n && wc -l p*
split -b 50k --filter='md5sum >$FILE' n q && cat q*
csplit -s n 100 /5000/ '{*}' && ls xx* | wc -l
seq 300 | xargs -P8 -n10 sh -c 'echo $#' | sort | uniq -c
echo "-- tar"
mkdir -p t/a/b
for i in 1 2 3 4 5 6 7 8 9; do seq "$i" >"t/a/$i"; done
ln t/a/1 t/hard && ln -s a/2 t/sym && ln -s /etc/passwd t/absolute && ln -s nowhere t/dangling && mkfifo t/fifo
chmod 4711 t/a/3 && touch -d '2001-02-03 04:05:06.123456789' t/a/4 && truncate -s 10M t/sparse
listing() { find "$@" ! -type d -printf '%P %M %n %U %G %T@ %l\n' | sort; }
tar -cf a.tar t && mkdir x && tar -xpf a.tar -C x && diff -r --no-dereference t x/t && listing t | sed 's/\.[0-9]* / /' >l1
listing x/t | sed 's/\.[0-9]* / /' | cmp - l1 && tar -df a.tar && wc -l <l1
tar -cSf s.tar t/sparse && stat -c %s s.tar && tar -xSf s.tar -C x && stat -c '%s %b' x/t/sparse
tar --listed-incremental=snar -cf i.tar t && echo >>t/a/9 && tar --listed-incremental=snar -cf j.tar t && tar -tf j.tar | sort
tar -xf a.tar -C x --unlink-first && tar -xf a.tar -C x --keep-old-files | wc -l
tar -xf a.tar --one-top-level=top --strip-components=2 t/a/2 t/a/3 && ls top && tar --remove-files -cf r.tar top && ls -d top
echo "-- cp, mv and ln"
cp -a t u && listing t >l1 && listing u | cmp - l1 && diff -r --no-dereference t u
cp --reflink=auto -r t/a v && cp -u t/a/1 v && cp -l t/a/1 link && stat -c %h link && cp -b t/a/2 link && ls link*
cp --sparse=always t/sparse sp && stat -c '%s %b' sp && cp -rs "$PWD/t/a" w && readlink w/1 && cp t/a/1 t/a/1
mkdir /dev/shm/"${PWD//\//-}" && mv u /dev/shm/"${PWD//\//-}" && mv /dev/shm/"${PWD//\//-}"/u . && listing u | cmp - l1
rmdir /dev/shm/"${PWD//\//-}"
mv -n link link~ && mv -T u uu && mv t/a t/a/b
ln -sr t/a/1 rel && readlink rel && ln -P t/sym ls1 && ln -L t/sym ls2 && stat -c %F ls1 ls2
ln -s loop loop && cat loop
realpath --relative-to=t n && readlink -e loop
echo "-- find"
find t -samefile t/hard | sort && find t -perm -4000 && find t -empty | sort && find t -xtype l && find t -lname 'a/*'
find t -name '*1' -print0 | xargs -0 -P4 -n1 wc -c && find t -depth -name b -delete && find t -type f -size -2k | wc -l
echo "-- dd and truncate"
dd if=n of=o bs=1k count=100 skip=3 seek=5 conv=notrunc status=none && md5sum <o
dd if=/dev/zero of=z bs=64k count=16 oflag=direct status=none && dd if=n of=z oflag=append conv=fsync,swab,notrunc status=none
md5sum <z && dd bs=7 count=100 iflag=fullblock status=none <n | md5sum && dd if=n of=holes bs=4k seek=100 count=1 status=none
stat -c %s holes && dd of=/dev/full if=n bs=1 count=1 status=none
truncate -s +10 n && truncate -s '<100' n && truncate -s %64 n && stat -c %s n && truncate -r z n && stat -c %s n
fallocate -l 1M fa && fallocate -p -o 0 -l 512K fa && stat -c '%s %b' fa && fallocate -d z && stat -c '%s %b' z
echo "-- stat and touch"
stat -c '%n %F %A %U %G %h' t/fifo t/sym && stat -c '%n %F %A %h %t %T' /dev/null /dev/full && stat -L -c %F t/sym
touch -d @1.5 n && stat -c '%.9Y %.3X' n && touch -h -d 2000-01-01 t/sym && stat -c %y t/sym && touch -a -d 1999-01-01 n
stat -c '%x %y' n && touch -r t/a/4 n && stat -c %y n
touch nodir/x
du -sb z && du -s --apparent-size t && du -sk t/sparse && df /nonexistent
ls -laR t | awk '{ print $1, $2, $3, $4 }' | md5sum && ls --color=always -F t | md5sum
chmod -R u=rwX,go= t && stat -c %a t t/a t/a/1 && install -D -m 640 n i/j/k && stat -c %a i/j/k && shred -u i/j/k && ls i/j
echo "-- processes"
timeout 0.1 sleep 60
echo "timeout $?"
echo $(($(nice -n 5 nice) - $(nice))) && nohup echo hi </dev/null && stdbuf -o0 echo a && env -i a=b env && tty
flock lock flock -n lock echo no || echo busy
prlimit --nofile=100:200 sh -c 'ulimit -n; ulimit -Hn' && setsid -w sh -c 'echo session'
mkfifo p1 && (echo through >p1 &) && cat p1 && seq 5 | tee t1 t2 | tac && cmp t1 t2 && md5sum t1 | md5sum -c
unshare true && script -qc 'stty size' /dev/null </dev/null && mountpoint / && findmnt -n -o FSTYPE /proc
