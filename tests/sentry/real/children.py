"""Children: subprocess in its ways, multiprocessing with fork and spawn, signals between them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import time
from multiprocessing import shared_memory
from multiprocessing.context import BaseContext


def square(number: int) -> int:
    return number * number


def subprocesses() -> None:
    print(subprocess.run(["sh", "-c", "cat; echo error >&2; exit 4"], input=b"in", capture_output=True))
    sleeper = subprocess.Popen(["sleep", "100"])
    sleeper.terminate()
    print("terminated", sleeper.wait())
    reader = subprocess.Popen("read x; echo got $x", shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    print(reader.communicate(b"line\n"))
    try:
        subprocess.run(["sleep", "100"], timeout=0.1)
    except subprocess.TimeoutExpired as error:
        print(error)
    try:
        subprocess.run(["/no/such/program"])
    except FileNotFoundError as error:
        print(error)
    print(subprocess.check_output(["env"], env={"A": "b"}, cwd="/", start_new_session=True))
    print(subprocess.run(["true"], preexec_fn=os.setpgrp, pass_fds=(0,)).returncode)
    print(os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn("/bin/false", ["false"], {}), 0)[1]))
    print(subprocess.check_output("echo a | tr a b | cat", shell=True), os.system("exit 3"))


def pools(context: BaseContext) -> None:
    with context.Pool(3) as pool:
        print(context.get_start_method(), pool.map(square, range(10)))
        print(sorted(pool.imap_unordered(square, range(20))))


def shares(context: BaseContext) -> None:
    value = context.Value("i", 0)

    def increment() -> None:
        for _ in range(50):
            with value.get_lock():
                value.value += 1

    children = [multiprocessing.get_context("fork").Process(target=increment) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    print("shared value", value.value)
    numbers = context.Queue()
    putter = multiprocessing.get_context("fork").Process(target=numbers.put, args=({"a": 1},))
    putter.start()
    print("queue", numbers.get())
    putter.join()
    memory = shared_memory.SharedMemory(create=True, size=100)
    assert memory.buf
    memory.buf[0] = 7
    other = shared_memory.SharedMemory(memory.name)
    assert other.buf
    print("shared memory", other.buf[0])
    other.close()
    memory.close()
    memory.unlink()


def signals() -> None:
    got: list[int] = []
    signal.signal(signal.SIGALRM, lambda number, _: got.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    signal.pause()
    print("alarm", got)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    os.kill(os.getpid(), signal.SIGUSR2)
    print("pending", signal.sigpending(), signal.sigwait([signal.SIGUSR2]))
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)  # which the signal interrupts
    except KeyboardInterrupt:
        print("interrupted")
    pid = os.fork()
    if not pid:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(7)
    print("stopped", os.WSTOPSIG(os.waitpid(pid, os.WUNTRACED)[1]))
    os.kill(pid, signal.SIGCONT)
    print("continued", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    pid = os.fork()
    if not pid:
        ctypes.string_at(0)
    print("fault", os.waitpid(pid, 0)[1] & 127)


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    subprocesses()
    for kind in ("fork", "spawn"):
        pools(multiprocessing.get_context(kind))
    shares(multiprocessing.get_context("fork"))
    signals()


if __name__ == "__main__":
    main()
