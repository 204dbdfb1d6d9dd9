"""Threads that take turns: one runs at a time, a seed says which, and time passes only where all of them wait.

The code under simulation is the service's own, and it starts threads. `Scheduler.threads` stands in for the module
`threading` there: its threads are real ones that hand a baton on wherever they would wait, and at each `pause`. So a
run is decided by its seed alone, and takes no time that it does not compute.

Threads belong to an *instance*. One that is killed ends: whatever a thread of it calls next raises `Killed`, and
goes on to do so while it unwinds. One that is stopped (SIGSTOP) gets no turn until it is continued.
"""

from __future__ import annotations

import _thread
import contextlib
import functools
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace, TracebackType
from typing import ClassVar

__all__ = ["Instance", "Killed", "OutOfTurns", "Scheduler", "SimulatedClock"]

_EPOCH_US = 1_700_000_000_000_000
_ALWAYS = float("-inf")
_TICK_SECONDS = 1e-6  # the least that a wait takes: less may be nothing beside the time of day


class Killed(BaseException):
    """SIGKILL: nothing that the instance does from here on has an effect."""


class OutOfTurns(AssertionError):
    """Nobody can go on, or nothing came to an end: the threads wait for each other."""


@dataclass(eq=False, slots=True)
class Instance:
    """One process of the service. `stopped_until` is a time of the scheduler."""

    name: str
    is_dead: bool = False
    stopped_until: float = 0.0


@dataclass(eq=False, slots=True)
class _Task:
    number: int
    name: str
    instance: Instance | None
    baton: _thread.LockType
    """Locked but for the moment in which the turn comes to the task."""
    is_ready: Callable[[], bool] | None = None
    deadline: float = _ALWAYS
    is_done: bool = False


class _Carrier:
    """A thread of the system, which carries one task after the other: a new one for each would cost more than it does.

    What it is given to `do` returns how the turn is handed on, once the thread may be given the next task.
    """

    idle: ClassVar[list[_Carrier]] = []

    def __init__(self) -> None:
        self.baton = _new_baton()
        self.do: Callable[[], Callable[[], None]]
        _thread.start_new_thread(self._run, ())

    def _run(self) -> None:
        while True:
            self.baton.acquire()
            hand_on = self.do()
            self.idle.append(self)
            hand_on()


def _new_baton() -> _thread.LockType:
    baton = _thread.allocate_lock()
    baton.acquire()
    return baton


class Scheduler:
    """Use in the thread that made it; `close` ends every other one."""

    def __init__(self, rng: random.Random, *, turns_max: int) -> None:
        self.rng = rng
        self.now = 1000.0
        self.turns = 0
        self.last_us = 0
        self.switch_chance = 0.3
        """How often a `pause` hands the baton on."""
        self.is_over = False
        self._turns_max = turns_max
        self._tasks: list[_Task] = []
        self._count = 0
        self._current = self._main = self._add("main", None, _new_baton())
        self.failure: BaseException | None = None
        self.threads = SimpleNamespace(
            Thread=self._thread, Event=self._event, Lock=self._lock, RLock=self._lock, Condition=self._condition
        )

    # ------------------------------------------------------------ for who runs

    @property
    def instance(self) -> Instance | None:
        """Whose turn it is."""
        return self._current.instance

    def spawn(self, target: Callable[[], object], name: str, instance: Instance | None) -> _Task:
        """Begin a thread of an instance, or of the world around them (None)."""
        carrier = _Carrier.idle.pop() if _Carrier.idle else _Carrier()
        task = self._add(name, instance, carrier.baton)

        def run() -> Callable[[], None]:
            try:
                if not self._is_to_end(task):
                    target()
            except Killed:
                pass
            except BaseException as error:  # noqa: BLE001 - the simulation's own failure: the main thread raises it
                self.failure = self.failure or error
            task.is_done = True
            self._tasks.remove(task)
            return self._give_turn

        carrier.do = run
        return task

    def pause(self) -> None:
        """Somebody else may have the turn now."""
        instance = self._current.instance
        if self.is_over or (instance is not None and instance.is_dead):
            self._check()
        if self.rng.random() < self.switch_chance:
            self._wait(None, _ALWAYS)

    def sleep(self, seconds: float) -> None:
        """Go on after so long."""
        self._wait(_never, self.now + max(seconds, _TICK_SECONDS))

    def wait(self, is_ready: Callable[[], bool], seconds: float | None = None) -> bool:
        """Go on when that is so (True), or after so long (False)."""
        if not is_ready():
            self._wait(is_ready, float("inf") if seconds is None else self.now + max(seconds, _TICK_SECONDS))
        else:
            self.pause()
        return is_ready()

    def kill(self, instance: Instance) -> None:
        """SIGKILL, perhaps to the one whose turn it is."""
        instance.is_dead = True
        self._check()

    def close(self) -> None:
        """End all threads; called by the main one."""
        self.is_over = True
        while len(self._tasks) > 1:
            self._wait(None, _ALWAYS)

    # ------------------------------------------------------------ turns

    def _add(self, name: str, instance: Instance | None, baton: _thread.LockType) -> _Task:
        self._count += 1
        task = _Task(self._count, name, instance, baton)
        self._tasks.append(task)
        return task

    def _is_to_end(self, task: _Task) -> bool:
        return (task.instance is not None and task.instance.is_dead) or (self.is_over and task is not self._main)

    def _check(self) -> None:
        if self._is_to_end(self._current):
            raise Killed

    def _wait(self, is_ready: Callable[[], bool] | None, deadline: float) -> None:
        me = self._current
        if self.is_over or (me.instance is not None and me.instance.is_dead):
            self._check()
        me.is_ready, me.deadline = is_ready, deadline
        following = self._next()
        if following is not me:
            self._current = following
            following.baton.release()
            me.baton.acquire()
        if self.is_over or (me.instance is not None and me.instance.is_dead):
            self._check()

    def _give_turn(self) -> None:
        """For the last time: the one whose turn it is has come to its end."""
        self._current = self._next()
        self._current.baton.release()

    def _next(self) -> _Task:
        self.turns += 1
        if self.failure is not None or self.turns > self._turns_max:
            if self.failure is None:
                self.failure = OutOfTurns(f"not at an end after {self.turns} turns, at {self.now - 1000:.1f} s")
            self.is_over = True
        if self.is_over:
            return next(filter(self._is_to_end, self._tasks), self._main)
        while True:
            able, now = [], self.now
            for task in self._tasks:
                if (instance := task.instance) is not None:
                    if instance.is_dead:
                        return task  # those that are to end do so before anything else happens
                    if instance.stopped_until > now:
                        continue
                if (is_ready := task.is_ready) is None or task.deadline <= now or is_ready():
                    able.append(task)
            if able:
                return able[0] if len(able) == 1 else self.rng.choice(able)
            if not self._pass_time():
                return self._main

    def _pass_time(self) -> bool:
        """Go on to the next deadline. False: there is none, and the simulation is over."""
        ahead, now = float("inf"), self.now
        for task in self._tasks:
            # One that is stopped and could go on goes on when it is continued.
            stopped_until = task.instance.stopped_until if task.instance is not None else 0.0
            time = stopped_until if stopped_until > now else task.deadline
            if now < time < ahead:
                ahead = time
        if ahead == float("inf"):
            waiting = ", ".join(task.name for task in self._tasks)
            self.failure = OutOfTurns(f"all wait for each other: {waiting}")
            self.is_over = True
            return False
        self.now = ahead
        return True

    # ------------------------------------------------------------ what stands in for `threading`

    def _thread(
        self, *, target: Callable[..., object], args: tuple[object, ...] = (), name: str = "", daemon: bool = True
    ) -> _Thread:
        return _Thread(self, functools.partial(target, *args), name)

    def _event(self) -> _Event:
        return _Event(self)

    def _lock(self) -> _Lock:
        return _Lock(self)

    def _condition(self) -> _Condition:
        return _Condition(self)


def _never() -> bool:
    return False


class _Thread:
    def __init__(self, scheduler: Scheduler, target: Callable[[], object], name: str) -> None:
        self._scheduler = scheduler
        self._target = target
        self._name = name
        self._task: _Task | None = None

    @property
    def ident(self) -> int | None:
        return self._task.number if self._task is not None else None

    def start(self) -> None:
        self._task = self._scheduler.spawn(self._target, self._name, self._scheduler.instance)

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.is_done

    def join(self, timeout: float | None = None) -> None:
        task = self._task
        self._scheduler.wait(lambda: task is None or task.is_done, timeout)


class _Event:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        return self._scheduler.wait(self.is_set, timeout)


class _Lock:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._is_taken = False

    def acquire(self, blocking: bool = True) -> bool:
        while self._is_taken:
            if not blocking:
                return False
            self._scheduler.wait(lambda: not self._is_taken)
        self._is_taken = True
        return True

    def release(self) -> None:
        self._is_taken = False

    def __enter__(self) -> bool:
        if self._is_taken:
            return self.acquire()
        self._is_taken = True
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_taken = False


class _Condition(_Lock):
    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self._rounds = 0

    def wait(self, timeout: float | None = None) -> bool:
        seen = self._rounds
        self.release()
        is_told = self._scheduler.wait(lambda: self._rounds != seen, timeout)
        self.acquire()
        return is_told

    def notify_all(self) -> None:
        self._rounds += 1


class SimulatedClock:
    """The scheduler's time, as the service asks for it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def now_us(self) -> int:
        """Never the same twice, as on a machine: what the service does takes no time here."""
        scheduler = self._scheduler
        scheduler.last_us = max(scheduler.last_us + 1, _EPOCH_US + int(scheduler.now * 1_000_000))
        return scheduler.last_us

    def monotonic(self) -> float:
        return self._scheduler.now

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(seconds)


@contextlib.contextmanager
def closing(scheduler: Scheduler) -> Iterator[Scheduler]:
    """End its threads, whatever happens."""
    try:
        yield scheduler
    finally:
        scheduler.close()
