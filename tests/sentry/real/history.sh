# What git does to a repository: commits, branches, merges, packs, clones and pushes.
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b GIT_PAGER=cat
export GIT_AUTHOR_DATE=2001-01-01T00:00:00Z GIT_COMMITTER_DATE=2001-01-01T00:00:00Z GIT_CONFIG_NOSYSTEM=1
git init -q -b main work
cd work || exit
for i in $(seq 1 20); do seq "$i" 100 >"file$i"; done
for i in 1 2; do git add "file$i"* && git commit -q -m "commit $i"; done
git checkout -q -b side
echo side >side
git add side
git commit -q -m side
git checkout -q main
echo main >main
git add main
git commit -q -m main
git merge -q -m merge side
git log --oneline --graph
echo changed >>file1
git status --short
git diff --stat
git stash -q
git stash pop -q
git commit -q -a -m changed
git tag v1
git gc -q
git fsck
git count-objects -v | grep -v size
cd ..
git clone -q work clone
git clone -q --bare work bare.git
cd clone || exit
git log --oneline | wc -l
echo new >new
git add new
git commit -q -m new
git push -q ../bare.git main
git -C ../bare.git log -1 --format='%s %H'
git grep -c 99 | head -n 3
git rebase -q HEAD~1
git archive HEAD | tar -t | wc -l
git rev-parse HEAD
