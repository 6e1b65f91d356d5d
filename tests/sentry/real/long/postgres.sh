# PostgreSQL as its own user: initdb, pgbench, parallel queries, locks between sessions, and a crash.
programs=(/usr/lib/postgresql/*/bin)
as=(env PATH="${programs[-1]}:$PATH" PGHOST="$PWD" PGUSER=postgres PGDATABASE=postgres)
if [ "$(id -u)" = 0 ]; then
	chown postgres .
	as=(setpriv --reuid postgres --regid postgres --clear-groups "${as[@]}")
fi
query() { "${as[@]}" psql -A -t "$@"; }
start() { "${as[@]}" pg_ctl -D data -l log -w -t 200 -o "-k $PWD -h 127.0.0.1" start >/dev/null; }
stop() { "${as[@]}" pg_ctl -D data -m "$1" -w -t 200 stop >/dev/null; echo "stopped $?"; }
"${as[@]}" initdb -D data -U postgres -A trust --no-sync | grep -E '^(creating|selecting|performing)' | grep -v zone
start || exit
query -c 'create table t as select g, md5(g::text) from generate_series(1, 20000) g' -c 'create index on t(g)' \
	-c 'select count(*), max(md5) from t'
"${as[@]}" pgbench -i -q 2>&1 | tail -n 1 | cut -d " " -f 1-2
"${as[@]}" pgbench -n -c 4 -j 2 -t 100 2>/dev/null | grep processed
"${as[@]}" pgbench -n -S -M prepared -c 4 -j 2 -t 200 2>/dev/null | grep processed
query -c 'select count(*), sum(delta) = (select sum(bbalance) from pgbench_branches) from pgbench_history'
PGHOST=127.0.0.1 query -c 'set parallel_setup_cost = 0' -c 'set min_parallel_table_scan_size = 0' \
	-c 'select count(*), sum(abalance) = (select sum(delta) from pgbench_history) from pgbench_accounts'
query -c 'show shared_memory_type' -c 'show dynamic_shared_memory_type' -c 'show wal_sync_method' -c checkpoint -c 'vacuum full t'
query -c 'listen news' -c "notify news, 'text'" | cut -d ' ' -f 1-8
coproc query
echo "begin; lock t; select 'locked';" >&"${COPROC[1]}"
for _ in 1 2 3; do read -r line <&"${COPROC[0]}"; done
echo "$line"
query -c 'set lock_timeout = 50' -c 'select count(*) from t' 2>&1 | head -n 2
echo 'commit; \q' >&"${COPROC[1]}"
wait
query -c 'insert into t values (0)' -c 'select count(*) from t'
stop immediate
start || exit
query -c 'select count(*) from t' -c 'select count(*) from pgbench_history'
"${as[@]}" pg_dump | wc -l
"${as[@]}" pg_dump -t t | grep -v restrict | md5sum
stop fast
grep -c 'recovery in progress' log
