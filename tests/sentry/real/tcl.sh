# tclsh: events of sockets and timers, pipes to programs.
mkdir folder && touch -d @1000000000 folder/a folder/b
tclsh <<'END'
proc accept {channel host port} { puts $channel "hello $host"; close $channel }
set server [socket -server accept -myaddr 127.0.0.1 0]
set client [socket -async 127.0.0.1 [lindex [fconfigure $server -sockname] 2]]
fileevent $client readable { puts [gets $client]; set done 1 }
vwait done
after 20 { set done 2 }
vwait done
puts "$done [exec echo a | tr a b]"
puts [catch { exec false } error]
puts $error
set pipe [open "|cat" r+]
puts $pipe through
flush $pipe
puts [gets $pipe]
close $pipe
puts [lsort [glob folder/*]]
file stat folder/a status
puts "$status(mtime) $status(nlink)"
puts [clock format 0 -gmt 1]
puts [info nameofexecutable]
exit 4
END
echo "status $?"
