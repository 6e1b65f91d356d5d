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
perl -Mthreads -Mthreads::shared -e '
my $n : shared = 0;
my @threads = map { threads->create(sub { for (1 .. 100) { lock($n); $n++ } $_[0] * 2 }, $_) } 1 .. 4;
print join(",", map { $_->join } @threads), " $n\n"'
perl -MIO::Socket::INET -MFcntl=:flock -MTime::HiRes=ualarm -e '
my $server = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1") or die $!;
if (!fork) {
	my $client = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $server->sockport);
	print $client "hi\n";
	print "got ", scalar <$client>;
	exit 3;
}
my $connection = $server->accept;
my $line = <$connection>;
print $connection uc $line;
close $connection;
wait;
print $? >> 8, "\n";
$SIG{ALRM} = sub { print "alarm\n" };
ualarm(10000);
select undef, undef, undef, 60;
open my $file, ">", "lock";
print flock($file, LOCK_EX), " ", join(",", (getpwuid 0)[0, 7]), "\n";
utime 1, 2, "lock";
print((stat "lock")[9], " ", syscall(39) > 0, "\n");
exec "echo", "executed"'
