# redis with its log of changes and its snapshots, under its own benchmark, and again after a restart.
start() {
	redis-server --port 6379 --bind 127.0.0.1 --unixsocket "$PWD/socket" --dir "$PWD" --appendonly yes --save '' \
		--daemonize yes --logfile "$PWD/log" --pidfile "$PWD/pid" >/dev/null || exit
	until [ "$(redis-cli ping 2>/dev/null)" = PONG ]; do sleep 0.02; done
}
stop() {
	redis-cli shutdown
	while [ -e pid ]; do sleep 0.02; done
}
until_done() {
	until redis-cli info persistence | grep -q "^$1:0"; do sleep 0.02; done
}
start
redis-cli set a 1
redis-cli incr a
redis-cli lpush list x y z
redis-cli lrange list 0 -1
redis-benchmark -n 2000 -c 20 -r 100 -t set,get,incr,lpush,mset --csv | cut -d , -f 1
redis-benchmark -s socket -n 5000 -c 20 -P 16 -t get --csv | cut -d , -f 1
redis-benchmark -n 2000 -c 20 --threads 2 -t set --csv | cut -d , -f 1
redis-cli dbsize
redis-cli bgsave
until_done rdb_bgsave_in_progress
redis-cli bgrewriteaof
until_done aof_rewrite_scheduled
until_done aof_rewrite_in_progress
redis-cli info persistence | grep status
redis-cli eval 'return redis.call("incrby", KEYS[1], 40)' 1 a
mkfifo heard
redis-cli subscribe news >heard &
exec 5<heard
until [ "$(redis-cli publish news text)" = 1 ]; do sleep 0.02; done
head -n 6 <&5
exec 5<&-
kill %1
wait
stop
redis-check-rdb dump.rdb | grep 'keys read'
redis-check-aof appendonlydir/appendonly.aof.manifest | tail -n 1
start
redis-cli get a
redis-cli llen list
redis-cli dbsize
stop
ls . appendonlydir
