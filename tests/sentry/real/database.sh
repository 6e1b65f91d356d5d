# SQLite: several writers at once, journals of both kinds, locks between processes, mapped files.
sqlite3 db 'pragma journal_mode = wal; create table t(id integer primary key, who text, n integer); create index i on t(who, n);'
write_each() {
	for n in $(seq 1 30); do
		sqlite3 -cmd '.timeout 100000' db "begin immediate; insert into t(who, n) values('$1', $n);
			update t set n = n + 1 where who = '$1' and n = $n; commit;"
	done
}
write_all() {
	{
		echo '.timeout 100000'
		for n in $(seq 1 500); do echo "begin immediate; insert into t(who, n) values('$1', $n); commit;"; done
	} | sqlite3 db
}
write_each a &
write_each b &
write_all c &
write_all d &
wait
sqlite3 db 'select who, count(*), sum(n) from t group by who; pragma integrity_check; pragma wal_checkpoint(truncate);'
coproc sqlite3 db
echo "begin immediate; select 'begun';" >&"${COPROC[1]}"
read -r line <&"${COPROC[0]}"
echo "$line"
ls
sqlite3 db 'select count(*) from t; begin immediate;' 2>&1
echo 'rollback; pragma journal_mode = delete; begin exclusive; select 1;' >&"${COPROC[1]}"
read -r line <&"${COPROC[0]}"
read -r line <&"${COPROC[0]}"
echo "$line"
ls
sqlite3 db 'select count(*) from t;' 2>&1
echo .quit >&"${COPROC[1]}"
wait
sqlite3 db 'select count(*) from t; vacuum; pragma integrity_check;'
sqlite3 db 'pragma mmap_size = 100000000; pragma locking_mode = exclusive; pragma journal_mode = wal;
	insert into t(who, n) select who, n from t; select count(*), sum(n) from t;'
sqlite3 db 'select who, n from t order by who, n' | md5sum
sqlite3 copy '.restore db' 'pragma integrity_check; select count(*) from t'
ls
