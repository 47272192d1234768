"""Shared by the commands: they report a user's mistake in one sentence."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from metarl.common.errors import Fault, UserError
from metarl.common.files import NotWritten
from metarl.common.memory import lacks_memory
from metarl.common.output import close_standard_streams, open_standard_streams, say
from metarl.config.checked import BoolOrAuto
from metarl.config.trust import code_in
from metarl.store.config_file import read_values
from metarl.store.folder import RunFolder
from metarl.store.reference import run_folder

Result = TypeVar("Result")

_NO_MEMORY = (
    "there is not enough memory: lower the number of tasks (meta_batch_size, tasks), of their rollouts or examples "
    "(rollouts_per_task, rollouts, horizon, shots, queries), or hidden_sizes"
)


Runs = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]", help_behavior_hint="(required)")
]
Trusted = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="MODULE:NAME")]


@dataclass(frozen=True)
class OwnCode:
    """Code from outside metarl that the run names, each as package.module:name. It is imported if you name it here."""

    trust: Trusted = ()
    """Code that the run names, of any kind; repeat the option for several names."""
    algo: str | None = None
    """The run's algorithm."""
    meta_optimiser: str | None = None
    """The run's meta-optimiser."""
    policy_body: str | None = None
    """The run's policy body."""


@dataclass(frozen=True)
class OwnCodeAndFamily(OwnCode):
    """Code from outside metarl that the run names, each as package.module:name. It is imported if you name it here."""

    env: str | None = None
    """The run's task family."""


def trusted(own: OwnCode, runs: Sequence[Path]) -> list[str]:
    """The names that the user trusts.

    Args:
        own: The options.
        runs: Folders of the runs that the command reads.

    Raises:
        UserError: If an option for one setting names what none of the runs has.
    """
    named = {setting: name for setting, name in vars(own).items() if setting != "trust" and name is not None}
    stored = [read_values(RunFolder(run_folder(run)).config) for run in runs] if named else []
    for setting, name in named.items():
        theirs = dict.fromkeys(str(values.get(setting)) for values in stored)
        if name not in theirs:
            option = f"--{setting.replace('_', '-')}"
            raise UserError(
                f"{option} names the run's own {setting}, which is {' or '.join(theirs)}, not {name}; leave it out, or "
                "name code that the run may import with --trust."
            )
    return [*own.trust, *code_in(named).values()]


class Unprintable(Exception):
    """Stdout cannot be written; the cause is the operating system's error."""


@contextmanager
def _printing() -> Iterator[None]:
    """Surrounds what prints on stdout, so that its errors are told from those of the user's environments."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        raise Unprintable from error


def show(text: str) -> None:
    """Prints a command's result."""
    with _printing():
        print(text)


class _Rules(ConstructorRegistry):
    """What tyro makes of our options in another way than by itself.

    Args:
        hidden: Names of the options of a settings class that the help leaves out.
    """

    def __init__(self, hidden: Mapping[type, Collection[str]]) -> None:
        super().__init__()
        self._hidden = hidden
        self.primitive_rule(_bool_or_auto)
        self.struct_rule(self._with_our_help)
        self._asks_others = False

    def _with_our_help(self, info: StructTypeInfo) -> StructConstructorSpec | None:
        """Joins the lines of help texts, of which completion would offer each as a candidate; names empty defaults."""
        if self._asks_others:
            return None
        self._asks_others = True
        try:
            spec = self.get_struct_spec(info)
        finally:
            self._asks_others = False
        if not isinstance(spec, StructConstructorSpec):
            return None
        hidden = self._hidden.get(info.type, ())
        fields = (
            replace(part, helptext=_on_one_line(part.helptext), type=_hinted(part, hide=part.name in hidden))
            for part in spec.fields
        )
        return replace(spec, fields=tuple(fields))


def _hinted(part: StructFieldSpec, *, hide: bool) -> Any:
    """The type of an option, with "none" for an empty default, of which tyro would print nothing."""
    if hide:
        return Annotated[part.type, tyro.conf.Suppress]
    return Annotated[part.type, _NONE] if part.default in ((), {}) else part.type


_NONE = tyro.conf.arg(help_behavior_hint="(default: none)")
_Help = str | Callable[[], str | None] | None


def _on_one_line(text: _Help) -> _Help:
    """Joins the lines of a help text, which newer versions of tyro read only when it is shown."""

    def joined(lines: str | None) -> str | None:
        return lines and " ".join(lines.split())

    if callable(text):
        read = text
        return lambda: joined(read())
    return joined(text)


def _bool_or_auto(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[bool | str] | None:
    """``--resume`` is True, ``--resume auto`` is "auto"."""
    if info.type != BoolOrAuto:
        return None
    return PrimitiveConstructorSpec(
        nargs=(0, 1),
        metavar="[auto]",
        choices=("auto",),
        instance_from_str=lambda words: words[0] if words else True,
        is_instance=lambda value: isinstance(value, bool | str),
        str_from_instance=lambda value: [str(value)],
    )


# All threads share stderr and tyro's caches.
_parsing = threading.Lock()


def parse(
    make: Callable[..., Result], hidden: Mapping[type, Collection[str]] = MappingProxyType({}), **options: Any
) -> Result:
    """Calls `tyro.cli`, but raises a UserError of our own checks unchanged instead of printing it in tyro's box.

    Several threads may call it.

    Args:
        make: Called with the parsed arguments.
        hidden: Names of the options of a settings class that the help leaves out.
        options: Options of `tyro.cli`.

    Raises:
        UserError: If ``make`` refuses the arguments.
        SystemExit: After printing help, or after printing that arguments cannot be parsed (code 2).
    """
    printed = io.StringIO()
    try:
        with _parsing, redirect_stderr(printed), _printing():
            # Comments are no help texts: not to look for them saves reading the sources again.
            return tyro.cli(make, config=(tyro.conf.HelptextFromCommentsOff,), registry=_Rules(hidden), **options)
    except SystemExit as end:
        # tyro turned our error into an exit: find it again among the exceptions that led to the exit.
        cause: BaseException | None = end
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__context__
        if cause is not None:
            raise cause from None
        sys.stderr.write(printed.getvalue())
        raise


def print_table(compute: Callable[[], Result], table: Callable[[Result], str]) -> Result:
    """Computes a result and prints its table, even if the result could not be written.

    Raises:
        NotWritten: After printing, if the result could not be written.
    """
    try:
        result = compute()
    except NotWritten as error:
        show(table(error.result))
        raise
    show(table(result))
    return result


def run_command(command: Callable[[], None]) -> int:
    """Runs a command's body.

    Args:
        command: The body.

    Returns:
        The exit code: 0; 1 after a fault at work, or if a result could not be printed; 2 after a user's mistake, such
        as an impossible setting; 130 after Ctrl-C; 141 if the reader of stdout has stopped reading (``--help | head``).
        Faults and mistakes are printed as one sentence.
    """
    open_standard_streams()
    try:
        command()
    except UserError as error:
        say(f"error: {error}")
        return 1 if isinstance(error, Fault) else 2
    except Unprintable as error:
        if isinstance(error.__cause__, BrokenPipeError):
            return 141
        say(f"error: cannot print the result: {error.__cause__}.")
        return 1
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        say(f"error: {_NO_MEMORY} ({' '.join(str(error).split())})")
        return 2
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        close_standard_streams()
    return 0
