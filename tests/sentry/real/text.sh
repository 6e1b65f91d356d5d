# Coreutils, find, grep, sed, awk, tar and its compressors.
set -u
seq 1 2000 >numbers
sort -rn numbers | head -n 2
awk '{ s += $1 } END { print s, NR }' numbers
sed -n '5p;10,12p' numbers
sed -i 's/^1/X/' numbers
grep -c X numbers
cut -c 1 numbers | sort | uniq -c | sort -rn | head -n 3
mkdir -p tree/a/b tree/c
for i in 1 2 3; do seq "$i" 1000 >"tree/a/b/$i.txt"; done
cp -a tree copy
mv copy/c copy/d
diff -r tree copy
find tree -name '*.txt' | sort | xargs wc -l
find tree -type f -size +3k -exec basename {} \; | sort
ls -R tree
tar -czf tree.tgz tree && mkdir out && tar -xzf tree.tgz -C out && diff -r tree out/tree && echo tar
gzip -k numbers && zcat numbers.gz | cmp - numbers && echo gzip
comm -12 <(seq 1 5) <(seq 3 7)
join <(echo 1 a) <(echo 1 b)
paste -d , <(seq 2) <(seq 3 4)
tac <(seq 3) | nl -ba
shuf -i 1-50 | sort -n | md5sum
od -c <<<hey
split -l 500 numbers part && ls part*
printf 'b\na\n' | sort -o sorted -
cat sorted
dd if=/dev/zero of=zeros bs=4k count=100 status=none
truncate -s 1M sparse
stat -c '%n %s %b' zeros sparse
ln -s tree link && readlink link && ln zeros hard && stat -c %h zeros
chmod 640 zeros && touch -d 2001-01-01T00:00:00Z zeros && stat -c '%a %Y' zeros
echo text | tee one two >three && cat one two three
sha256sum zeros
base64 <<<hello
env -i A=1 env
factor 1000000007
date -u -d @1000000000
rm -r tree copy out && ls
