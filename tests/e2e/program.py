"""A subprocess whose output is read, kept and waited for.

Each pipe is drained by a task from start to end: a full pipe would stop the process in the middle
of a test. Lines that are JSON objects become events; the last lines of everything are printed when
the program is over, and pytest shows them only if the test failed.
"""

from __future__ import annotations

import collections
import contextlib
import json
import subprocess
from typing import TYPE_CHECKING, Any

import attrs
import trio

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

DEADLINE = 15.0
GRACE = 3.0
KEPT_LINES = 400

Json = Any
Event = dict[str, Json]


@contextlib.contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """Fail with what was waited for if the block takes longer."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise AssertionError(f"waited {seconds:g} s in vain for {what}") from None


@attrs.define(eq=False)
class Program:
    """A running subprocess and what it wrote."""

    name: str
    process: trio.Process = attrs.field(repr=False)
    events: list[Event] = attrs.field(factory=list, repr=False)
    _output: collections.deque[str] = attrs.field(init=False, repr=False)
    _observers: list[Callable[[Event], None]] = attrs.field(init=False, factory=list, repr=False)
    _changed: trio.Event = attrs.field(init=False, factory=trio.Event, repr=False)

    def __attrs_post_init__(self) -> None:
        self._output = collections.deque(maxlen=KEPT_LINES)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def observe(self, observer: Callable[[Event], None]) -> None:
        """Call the observer with each event from now on."""
        self._observers.append(observer)

    def named(self, name: str) -> list[Event]:
        """The events of this name, oldest first."""
        return [event for event in self.events if event.get("event") == name]

    def said(self, text: str) -> bool:
        """Whether the text is in what the program wrote lately."""
        return any(text in line for line in self._output)

    async def until(
        self,
        condition: Callable[[], object],
        what: str,
        *,
        within: float = DEADLINE,
    ) -> None:
        """Wait until the condition, asked again after each line, holds."""
        with deadline(within, f"{self.name}: {what}"):
            while not condition():
                await self._changed.wait()

    async def until_ready(self) -> None:
        """Wait for the program's ready event; fail at once if it ends before."""
        await self.until(lambda: self.named("ready") or not self.alive, "its ready event")
        if not self.named("ready"):
            raise AssertionError(f"{self.name} ended with {self.process.returncode} at start-up")

    async def ended(self, *, within: float = DEADLINE) -> int:
        """Wait for the end of the process and return its exit code."""
        with deadline(within, f"the end of {self.name}"):
            return await self.process.wait()

    async def signal(self, number: signal.Signals) -> int:
        """Send a signal that ends the process, and wait until it did."""
        self.process.send_signal(number)
        return await self.ended()

    def show(self) -> None:
        """Print the last of what the program wrote."""
        print(f"--- {self.name} (pid {self.pid}, exit code {self.process.poll()})")
        for line in self._output:
            print(line)

    async def drain(self, stream: trio.abc.ReceiveStream) -> None:
        """Read one pipe to its end, line by line."""
        rest = b""
        async for chunk in stream:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._take(line.decode(errors="replace"))
            self._tell()
        self._take(rest.decode(errors="replace"))

    async def watch(self) -> None:
        """Wake those who wait when the process ends, however it ends."""
        await self.process.wait()
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def _take(self, line: str) -> None:
        if not line:
            return
        self._output.append(line[:2000])
        with contextlib.suppress(json.JSONDecodeError):
            event = json.loads(line)
            if isinstance(event, dict):
                self.events.append(event)
                for observer in self._observers:
                    observer(event)


@contextlib.asynccontextmanager
async def open_background() -> AsyncIterator[trio.Nursery]:
    """Open a nursery for tasks that serve the block, whose own error leaves it as it is.

    Passing through the nursery it would be put in a group, once for each process of a test.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except Exception as error:
            failure = error
    if failure is not None:
        raise failure


@contextlib.asynccontextmanager
async def open_program(
    name: str, command: Sequence[str], *, cwd: str | None = None
) -> AsyncIterator[Program]:
    """Run a command; whatever becomes of the block, the process is gone after it."""
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
    )
    program = Program(name, process)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with open_background() as nursery:
            nursery.start_soon(program.drain, process.stdout, name=f"{name} stdout")
            nursery.start_soon(program.drain, process.stderr, name=f"{name} stderr")
            nursery.start_soon(program.watch, name=f"{name} end")
            try:
                yield program
            finally:
                await _end(program)
                # A pipe that the process left to a child of its own would never end.
                nursery.cancel_scope.deadline = trio.current_time() + GRACE
    finally:
        await _close_pipes(process)
        program.show()


async def _end(program: Program) -> None:
    """End the process: kindly first, so that it can end what it started itself."""
    if program.alive:
        program.process.terminate()
    with trio.move_on_after(GRACE, shield=True):
        await program.process.wait()
    if program.alive:
        program.process.kill()
    with trio.move_on_after(GRACE, shield=True):
        await program.process.wait()


async def _close_pipes(process: trio.Process) -> None:
    with trio.move_on_after(GRACE, shield=True):
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                await pipe.aclose()
