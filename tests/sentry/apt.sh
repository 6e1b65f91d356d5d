# apt and dpkg: install from a file, upgrade through copies, install by HTTP on loopback, remove, purge.
export PATH=/usr/sbin:/usr/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C HOME=/root
exec 2>&1
get() {
	apt-get -q "$@" 2>&1 | sed 's/^Fetched.*/Fetched/' # the rate differs
	echo "status ${PIPESTATUS[0]}"
}
source_is() { echo "deb [trusted=yes] $1 ./" >/etc/apt/sources.list; }
source_is file:/srv/1.0
get update
get install -y tiny-more
tiny && tiny-more
dpkg -V
dpkg -l 'tiny*'
dpkg -L tiny | wc -l
dpkg -S /usr/bin/tiny
stat -c '%n %h %U %G %a %s %Y' /usr/share/tiny/data /usr/share/tiny/hard /etc/tiny/conf /usr/bin/tiny
dpkg-divert --rename --divert /usr/bin/tiny.real --add /usr/bin/tiny
update-alternatives --install /usr/bin/small small /usr/bin/tiny.real 10
small
source_is copy:/srv/2.0
get update
echo changed >>/etc/tiny/conf
get -o Dpkg::Options::=--force-confold dist-upgrade -y
small && tiny-more
cat /etc/tiny/conf && ls /etc/tiny
update-alternatives --remove small /usr/bin/tiny.real
dpkg-divert --rename --remove /usr/bin/tiny
get remove -y tiny
get purge -y tiny tiny-more
ls -d /etc/tiny* /usr/share/tiny*
busybox httpd -p 127.0.0.1:8000 -h /srv
source_is http://127.0.0.1:8000/2.0
get update
get install -y tiny-more
get install -y --reinstall tiny
get check
dpkg --audit
find /usr /etc /var -xdev ! -type d -printf '%p %y %m %U %G %l %n\n' | sort
find /usr /etc /var -xdev -type d -printf '%p %m %U %G\n' | sort
