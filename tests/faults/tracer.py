"""Run something in a child and stand at each of its system calls, in all its threads and children.

::

    status = tracer.run(start, judge)

``start`` runs in the child and returns its exit status. ``judge`` is asked before every system call
and answers ``GO``, ``KILL`` (the whole process, as SIGKILL would at that moment) or an errno: the
call is then not made and fails with it.

ptrace rather than strace: a forked child of an interpreter that has imported everything begins at
once, one counter covers all calls of all threads, and the call's own path can be asked for. Source:
ptrace(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import signal
from collections.abc import Callable
from typing import NamedTuple

GO, KILL = 0, -1

_TRACEME, _SYSCALL, _SETOPTIONS, _POKEUSER, _GET_SYSCALL_INFO = 0, 24, 0x4200, 6, 0x420E
_SYSGOOD, _FORK, _VFORK, _CLONE, _EXEC, _EXITKILL = 1, 2, 4, 8, 16, 1 << 20
_WALL = 0x40000000
_ENTRY, _EXIT = 1, 2
_ORIG_RAX, _RAX = 15 * 8, 10 * 8  # offsets in struct user. Source: sys/reg.h, x86-64 only

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


class _Info(ctypes.Structure):
    """struct ptrace_syscall_info, as far as it is needed."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("instruction_pointer", ctypes.c_uint64),
        ("stack_pointer", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    )


class Call(NamedTuple):
    """A system call that is about to be made."""

    pid: int
    number: int
    arguments: tuple[int, ...]

    def text(self, index: int) -> str:
        """Return the string that an argument points to; empty if it points nowhere."""
        if not self.arguments[index]:
            return ""
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as file:
            file.seek(self.arguments[index])
            return os.fsdecode(file.read(4096).partition(b"\0")[0])

    def file(self, index: int) -> str:
        """Return what a descriptor argument stands for; a current directory for AT_FDCWD."""
        fd = ctypes.c_int32(self.arguments[index]).value
        where = f"/proc/{self.pid}/" + ("cwd" if fd == -100 else f"fd/{fd}")
        with contextlib.suppress(OSError):
            return os.readlink(where)
        return ""


def run(start: Callable[[], int], judge: Callable[[Call], int]) -> int:
    """Trace a child to its end and return its wait status."""
    leader = os.fork()
    if leader == 0:
        _child(start)
    os.waitpid(leader, 0)
    options = _SYSGOOD | _FORK | _VFORK | _CLONE | _EXEC | _EXITKILL
    _ptrace(_SETOPTIONS, leader, 0, options)
    _ptrace(_SYSCALL, leader, 0)
    return _Trace(leader, judge).follow()


def _child(start: Callable[[], int]) -> None:
    status = 99
    try:
        _ptrace(_TRACEME, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        status = start()
    finally:
        os._exit(status)


class _Trace:
    """The tracees of one run."""

    def __init__(self, leader: int, judge: Callable[[Call], int]) -> None:
        self._leader, self._judge = leader, judge
        self._living, self._known = {leader}, {leader}
        self._failing: dict[int, int] = {}
        self._killed = False

    def follow(self) -> int:
        result = 0
        while self._living:
            try:
                pid, status = os.waitpid(-1, _WALL)
            except ChildProcessError:
                break
            if os.WIFSTOPPED(status):
                self._living.add(pid)
                self._stopped(pid, status)
                continue
            self._living.discard(pid)
            if pid == self._leader:
                result = status
        return result

    def _stopped(self, pid: int, status: int) -> None:
        if self._killed:  # a child that was born when the others were killed
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return
        number, deliver = os.WSTOPSIG(status), 0
        if number == signal.SIGTRAP | 0x80:
            self._at_call(pid)
            if self._killed:
                return
        elif number == signal.SIGSTOP and pid not in self._known:
            self._known.add(pid)  # a new thread or child stops once
        elif not (number == signal.SIGTRAP and status >> 16):
            deliver = number
        _resume(pid, deliver)

    def _at_call(self, pid: int) -> None:
        info = _Info()
        _ptrace(_GET_SYSCALL_INFO, pid, ctypes.sizeof(info), ctypes.addressof(info))
        if info.op == _EXIT and pid in self._failing:
            _poke(pid, _RAX, -self._failing.pop(pid))
        if info.op != _ENTRY:
            return
        verdict = self._judge(Call(pid, info.number, tuple(info.arguments)))
        if verdict == KILL:
            self._killed = True
            for living in self._living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(living, signal.SIGKILL)
        elif verdict:
            _poke(pid, _ORIG_RAX, -1)
            self._failing[pid] = verdict


def _resume(pid: int, deliver: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # killed meanwhile
        _ptrace(_SYSCALL, pid, 0, deliver)


def _poke(pid: int, register: int, value: int) -> None:
    assert platform.machine() == "x86_64", "errors are injected on x86-64 only"
    _ptrace(_POKEUSER, pid, register, ctypes.c_uint64(value & (1 << 64) - 1).value)


def _ptrace(request: int, pid: int, address: int, data: int = 0) -> None:
    if _libc.ptrace(request, pid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
