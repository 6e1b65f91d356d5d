# perl: pipes, processes, signals, sockets.
perl <<'END'
use strict;
use Socket;
use POSIX ();
$| = 1;
my %square = map { $_ => $_ ** 2 } 1 .. 5;
print join(",", map { "$_=$square{$_}" } sort keys %square), "\n";
open(my $pipe, "-|", "echo from a pipe") or die;
print <$pipe>;
my $pid = fork // die;
exit 3 unless $pid;
waitpid $pid, 0;
print $? >> 8, "\n";
local $SIG{ALRM} = sub { print "alarm\n" };
alarm 1;
print sleep(60) < 60 ? "woken\n" : "slept\n";
socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die;
syswrite $a, "through a socket\n";
sysread $b, my $text, 100;
print $text, `uname -s`, POSIX::floor(3.7), "\n";
open(my $file, ">", "file") or die;
print $file "X$_\n" for 1 .. 1000;
close $file;
END
perl -ne 'print if /9{2}/' file
perl -pi -e 's/^X/Y/' file
head -n 1 file
