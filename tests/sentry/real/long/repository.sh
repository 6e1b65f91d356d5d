# git with a thousand files: commits, garbage collection, clones of each kind, and what changes history.
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b GIT_PAGER=cat
export GIT_AUTHOR_DATE=2001-01-01T00:00:00Z GIT_COMMITTER_DATE=2001-01-01T00:00:00Z GIT_CONFIG_NOSYSTEM=1
exec 2>&1
git init -q -b main work
cd work || exit
for i in $(seq 10); do
	mkdir "d$i"
	for j in $(seq 100); do seq "$j" $((i * j)) | head -n 100 >"d$i/f$j"; done
done
git add .
git commit -q -m one
git log --stat | tail -n 1
for i in $(seq 5); do
	sed -i "1s/^/$i /" "d$i"/*
	git commit -q -a -m "change $i"
done
git log --oneline
git diff --stat HEAD~2 | tail -n 1
git diff HEAD~1 | md5sum
git gc -q
git fsck --full --strict
git repack -adfq
git count-objects -v | grep -v size
cd ..
git clone -q "file://$PWD/work" clone
git clone -q --depth 1 "file://$PWD/work" shallow
git -C shallow rev-list --count HEAD
cd clone || exit
git status
git checkout -q -b side HEAD~3
echo more >>d9/f1
git stash
git stash pop
git commit -q -a -m side
git rebase -q main
git push -q origin side
git -C ../work branch
git worktree add -q ../tree HEAD~1
git -C ../tree status -s
git bisect start HEAD HEAD~4 >/dev/null
git bisect run sh -c 'test $(head -n 1 d4/f1 | wc -w) = 1' | tail -n 3
git bisect reset -q
git rm -rq d1
git clean -fdxq
git reset -q --hard
git blame d2/f1 | md5sum
git grep -n 77 | md5sum
git bundle create -q ../bundle HEAD
git bundle verify -q ../bundle
git format-patch -q -1
git reset -q --hard HEAD~1
git am -q 0*.patch
git log -1 --format='%H %s'
git prune
git ls-files -s | md5sum
