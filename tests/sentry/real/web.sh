# nginx with two workers, and curl: over TCP and a unix socket, through a proxy, compressed, in part, and many at once.
PATH=$PATH:/usr/sbin
mkdir www tmp
echo hello >www/index.html
seq 1 100000 >www/big
for i in $(seq 1 40); do echo "file $i" >"www/$i"; done
cat >nginx.conf <<END
worker_processes 2;
pid $PWD/pid;
error_log $PWD/error.log;
events { worker_connections 64; }
http {
	access_log $PWD/access.log;
	client_body_temp_path $PWD/tmp/body;
	proxy_temp_path $PWD/tmp/proxy;
	fastcgi_temp_path $PWD/tmp/fastcgi;
	uwsgi_temp_path $PWD/tmp/uwsgi;
	scgi_temp_path $PWD/tmp/scgi;
	sendfile on;
	tcp_nopush on;
	gzip on;
	gzip_types text/plain;
	default_type text/plain;
	server {
		listen 127.0.0.1:8080;
		listen unix:$PWD/socket;
		root $PWD/www;
		location /proxy/ { proxy_pass http://127.0.0.1:8080/; }
	}
}
END
workers() {
	cat /proc/[0-9]*/status 2>/dev/null | awk -v "parent=$(cat pid)" '/^Pid:/ { pid = $2 } /^PPid:/ && $2 == parent { print pid }'
}
nginx -p "$PWD" -e error.log -c nginx.conf || exit
url=http://127.0.0.1:8080
curl -s $url/
until [ "$(workers | wc -l)" = 2 ]; do sleep 0.02; done
for pid in $(workers); do grep -E '^(Uid|Gid|Threads)' "/proc/$pid/status"; done
curl -s $url/big | md5sum
curl -s --compressed -D head $url/big | md5sum
grep -i content-encoding head
curl -s -r 1000-1999 $url/big | md5sum
curl -s --unix-socket socket $url/proxy/big | md5sum
curl -s -o absent -w '%{http_code} %{size_download}\n' $url/absent
curl -s -I $url/ | grep -E 'HTTP|Length|Server'
curl -s -Z --parallel-max 20 "$url/[1-40]" "$url/proxy/[1-40]" | sort | md5sum
curl -s "$url/[1-9]" | tail -n 2
old=$(workers)
kill -HUP "$(cat pid)"
for pid in $old; do while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done; done
curl -s $url/
mv access.log first.log
kill -USR1 "$(cat pid)"
until [ -e access.log ]; do sleep 0.02; done
wc -l <first.log
cut -d ']' -f 2- error.log | cut -d : -f 2- | sed "s,$PWD,,"
kill -QUIT "$(cat pid)"
while [ -e pid ]; do sleep 0.02; done
ls
curl -s $url/
echo "stopped $?"
