"""What the command lines share: argument types, flags, how paths are read, and how a command ends."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import datetime
import functools
import io
import json
import math
import os
import re
import signal
import sys
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

from compare import config
from compare.config import SETTINGS, TRAINING, Interval
from compare.errors import LARGEST, UserError, Valid, base_of, require_valid, suggestion
from compare.files import finite

TRACKS = ("numpy", "jax", "torch")
LOADERS = SETTINGS["loader"].valid.choices
SHIPPED = Path(__file__).resolve().with_name("shipped")  # the networks that are part of the project
NETWORK = "checkpoint folder, exported file, or a network of the project: mlp-mnist or cnn-mnist"
program = ""  # how the command was called, if not as python -m compare.COMMAND
ALIASES = {"pytorch": "torch", "cuda": "gpu", "bf16": "bfloat16"}

# --- argument types: text -> value, or ArgumentTypeError, which argparse prints with the name of the flag -------------


def path(text: str) -> Path:
    """A path as the user writes it, relative to where the user stands, made absolute; a leading ~ is the home."""
    try:
        if not text:
            raise argparse.ArgumentTypeError("invalid path '': expected a file or folder")
        return Path(text).expanduser().absolute()
    except RuntimeError as error:  # no such user, or no home
        raise argparse.ArgumentTypeError(f"invalid path {text!r}: {error}") from error


def shown(file: Path) -> str:
    """A path for the terminal: relative to where the user stands, if it is below that."""
    here = Path.cwd()
    return str(file.relative_to(here) if file.is_relative_to(here) else file)


def output(text: str) -> Path:
    """A :func:`path` to write to; one that is not UTF-8 could not be named in results, reports and databases."""
    found = path(text)
    try:
        str(found).encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"invalid path {str(found)!r}: expected a name in UTF-8") from error
    return found


def network(text: str) -> Path:
    """A :func:`path` to a trained network; the name of one that ships stands for its file, unless a path has it."""
    given, shipped = path(text), SHIPPED / f"{text}.npz"
    return shipped if shipped.parent == SHIPPED and shipped.is_file() and not given.exists() else given


def dataset(text: str) -> str:
    """A dataset by name; ``folder:PATH``, FILE.npz and FILE.py:function have a :func:`path`."""
    if text.startswith("folder:"):
        return f"folder:{path(text.removeprefix('folder:'))}"
    return str(path(text)) if text.lower().endswith(".npz") or ".py:" in text else text


def pretrained(text: str) -> str:
    """``torchvision:NAME``, or ``NAME:FILE`` with a :func:`path`."""
    name, _, rest = text.partition(":")
    return f"{name}:{path(rest)}" if rest and name != "torchvision" else text


def database(text: str) -> str:
    """A database URL; a plain path, and the path of ``sqlite:///PATH``, are those of SQLite files."""
    if "://" not in text:
        return sqlite_url(path(text))
    scheme, _, rest = text.partition(":///")
    if not scheme.startswith("sqlite") or rest in ("", ":memory:"):
        return text
    file, query, options = rest.partition("?")
    return f"{sqlite_url(path(urllib.parse.unquote(file)))}{query}{options}"


def sqlite_url(file: Path) -> str:
    """The URL of a SQLite database, whatever its folder is called.

    Where characters have to be quoted, the driver is named, too: MLflow makes the folder of a ``sqlite:///`` URL
    without unquoting its name.
    """
    plain = str(file.absolute())
    quoted = plain.replace("%", "%25").replace("?", "%3F")
    return f"sqlite{'' if quoted == plain else '+pysqlite'}:///{quoted}"


def number(kind: type[int] | type[float], low: float = 1, high: float = LARGEST, *, above: bool = False) -> Any:
    """A number from ``low``, or above it, to ``high``."""
    valid = Valid(low, high, above=above)

    def convert(text: str) -> Any:
        try:
            value: Any = kind(text)
        except ValueError:
            value = text
        return _valid("value", value, kind, valid, text)

    return convert


def _valid(name: str, value: Any, kind: Any, valid: Valid, text: str) -> Any:
    try:
        require_valid(name, value, kind, valid, given=text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return value


def one_of(kind: str, known: Sequence[str]) -> Callable[[str], str]:
    """A name out of some; an unknown one is answered with those that are close, and with all."""

    def convert(text: str) -> str:
        name = ALIASES.get(text, text)
        if name not in known:
            raise argparse.ArgumentTypeError(
                f"unknown {kind} {text!r}.{suggestion(text, known)} Known: {', '.join(known)}"
            )
        return name

    return convert


def each(convert: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Values with commas between them, for the action :class:`Several`."""
    return lambda text: [convert(part) for part in filter(None, text.split(","))]


class Several(argparse.Action):
    """The values of :func:`each` in one list, once each: ``numpy,torch`` and ``numpy torch`` are the same."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: Any = None) -> None:
        """Set the list."""
        setattr(namespace, self.dest, list(dict.fromkeys(value for group in values for value in group)))


def setting(name: str) -> Callable[[str], Any]:
    """The argument type of a field of the Config."""
    if name == "dataset":
        return dataset
    if name == "data_dir":
        return lambda text: str(path(text))

    def convert(text: str) -> Any:
        known = ALIASES.get(text) or re.sub(r"^cuda(?=:|$)", "gpu", text)
        try:
            return config.parse(name, known)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


# --- parsers and the flags that several of them have ------------------------------------------------------------------


def parser(command: str, text: str | None, *, what: str = "what to do") -> argparse.ArgumentParser:
    """The parser of ``python -m compare.COMMAND``, or of ``program``.

    ``text``, its module's docstring, is what it does, and examples.
    """
    made = argparse.ArgumentParser(
        prog=program or f"python -m compare.{command}",
        description=text and text.replace("``", "`"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made._positionals.title = what
    return made


def group(options: argparse.ArgumentParser, title: str) -> Any:
    """The parser's argument group of this title, made where it is first asked for."""
    found = (each for each in options._action_groups if each.title == title)
    return next(found, None) or options.add_argument_group(title)


def add_settings(options: argparse.ArgumentParser, *names: str, note: Mapping[str, str] | None = None) -> None:
    """The flags of these fields of the Config, which stay None unless given; a ``note`` replaces a field's help."""
    lengths = None
    for name in names:
        known, kind = SETTINGS[name], config.kinds()[name]
        where = group(options, known.group)
        if name in ("epochs", "steps"):
            where = lengths = lengths or where.add_mutually_exclusive_group()
        choices = known.valid.choices
        where.add_argument(
            f"--{name.replace('_', '-')}",
            type=str if base_of(kind) is tuple else setting(name),
            nargs="*" if base_of(kind) is tuple else None,
            metavar="|".join(choices) or known.metavar,
            help=(note or {}).get(name, known.help),
        )


def add_network(options: argparse.ArgumentParser, *, where: str = TRAINING, what: str = "") -> None:
    """``--network``, a file with a network of the user's own."""
    group(options, where).add_argument(
        "--network", type=path, metavar="FILE.py",
        help=what or "a network of your own: at least two of the classes Numpy, Jax and Torch",
    )  # fmt: skip


def given(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of the Config that flags have set."""
    found = {name: value for name in SETTINGS if (value := getattr(options, name, None)) is not None}
    if "augment" in found:
        found["augment"] = tuple(found["augment"])
    if "epochs" in found:
        found["steps"] = None
    return found


def add_tracks(
    options: argparse.ArgumentParser,
    *,
    where: str = TRAINING,
    default: Sequence[str] = TRACKS,
    extra: Sequence[str] = (),
) -> None:
    """``--tracks``, of which there may be several."""
    known = (*TRACKS, *extra)
    group(options, where).add_argument(
        "--tracks",
        nargs="+",
        type=each(one_of("track", known)),
        action=Several,
        default=default,
        metavar="TRACK",
        help=f"{', '.join(known)} (default: {' '.join(default)})",
    )


def add_track(
    options: argparse.ArgumentParser, *, default: str | None = None, known: Sequence[str] = TRACKS, what: str = ""
) -> None:
    """``--tracks`` of a command that takes one, as ``options.track``."""
    names = ", ".join(known[:-1]) + f" or {known[-1]}"
    group(options, TRAINING).add_argument(
        "--tracks",
        type=one_of("track", known),
        dest="track",
        default=default,
        required=default is None,
        metavar="TRACK",
        help=f"{what or 'the one to train'}: {names}" + (f" (default: {default})" if default else ""),
    )


def add_seeds(options: argparse.ArgumentParser, *, default: Sequence[int] | None, what: str) -> None:
    """``--seeds``: one training each."""
    group(options, TRAINING).add_argument(
        "--seeds",
        nargs="+",
        type=each(setting("seed")),
        action=Several,
        default=default,
        metavar="N",
        help=f"{what} (default: {' '.join(map(str, default or [0]))})",
    )


def seconds(text: str) -> float:
    """``"5s"`` or ``"5"``; argparse names the flag if it is neither."""
    try:
        value = float(text.removesuffix("s"))
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"invalid time {text!r}: expected seconds, like 5s")
    return value


def wait_for_quiet() -> float:
    """Seconds to wait for a quiet machine before anything is timed: NN_WAIT, or 30."""
    try:
        return seconds(os.environ.get("NN_WAIT", "30s"))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"NN_WAIT: {error}") from error


def add_saving(options: argparse.ArgumentParser) -> None:
    """How often a training saves itself, and how many of its checkpoints stay."""
    saving = group(options, "saving and resuming")
    saving.add_argument(
        "--save-every",
        type=Interval.parse,
        default=Interval.parse("60s"),
        metavar="N|Ns",
        help="save after N steps, or after N seconds with an s (default: 60s), and at the end",
    )
    saving.add_argument(
        "--keep",
        type=number(int),
        default=2,
        metavar="N",
        help="checkpoints to keep of each run, the last N and the best by validation (default: 2)",
    )


def add_output(options: argparse.ArgumentParser, *, default: str = "", required: bool = False) -> None:
    """``--out``, a folder; see :func:`output_folder` for the default."""
    group(options, "output").add_argument(
        "--out",
        type=output,
        metavar="DIR",
        required=required,
        help="folder of the results" + (f" (default: runs/{default}DATE_TIME)" if not required else ""),
    )


def add_mlflow(options: argparse.ArgumentParser) -> None:
    """``--no-mlflow``."""
    group(options, "output").add_argument("--no-mlflow", action="store_true", help="do not log to MLflow")


def add_json(options: argparse.ArgumentParser, what: str, *, where: str = "output") -> None:
    """``--json``; see :func:`figures`."""
    group(options, where).add_argument("--json", action="store_true", help=f"print {what} as JSON")


Show = Callable[[Any, Callable[[], object]], None]


@contextlib.contextmanager
def figures(as_json: bool) -> Iterator[Show]:
    """Yield ``show(found, say)``, which prints ``found`` as JSON, or else calls ``say`` to print it for a reader.

    With ``--json`` nothing else reaches standard output: progress and notes go to standard error.
    """
    out = sys.stdout

    def show(found: Any, say: Callable[[], object]) -> None:
        if as_json:
            print(json.dumps(finite(found), indent=1), file=out)
        else:
            say()

    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield show


def output_folder(out: Path | None, default: str = "") -> Path:
    """The folder that was asked for, or a new one in ``runs``, where the user stands.

    A new one is made at once, so that no other process takes its name; it is removed at the end if it is still empty.
    """
    if out is not None:
        return out
    name = f"{default}{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
    try:
        runs = output("runs")
        made = [] if runs.exists() else [runs]
        runs.mkdir(exist_ok=True)
        folder, number = runs / name, 1
        while not _claimed(folder):
            number += 1
            folder = runs / f"{name}-{number}"
    except argparse.ArgumentTypeError as error:
        raise UserError(f"{error}; choose a folder with --out") from error
    except OSError as error:
        raise UserError(
            f"cannot write to {runs / name} ({error.strerror}); choose another folder with --out"
        ) from error
    atexit.register(_remove_empty, folder, *made)
    return folder


def _claimed(folder: Path) -> bool:
    """Make a folder; False if somebody else has."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _remove_empty(*folders: Path) -> None:
    for each in folders:
        with contextlib.suppress(OSError):  # it is not empty
            each.rmdir()


RESULTS = ("results.json", "benchmark.json", "loaders.json", "transfer.json")  # a search is resumed in its folder


def require_writable(directory: Path) -> None:
    """Raise UserError if the folder holds results, or if it cannot be made and written to.

    A folder that is new is removed again: it is made when the first file is written.
    """
    for name in RESULTS:
        if (directory / name).exists():
            resume = ", or finish it with python -m compare.run_all --resume" if name == "results.json" else ""
            raise UserError(f"{directory} holds results already ({name}): choose another folder with --out{resume}")
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UserError(f"cannot write to {directory} ({error.strerror}); choose another folder with --out") from error
    finally:
        for each in missing:
            with contextlib.suppress(OSError):
                each.rmdir()


# --- how a command begins and ends ------------------------------------------------------------------------------------

Arguments = ParamSpec("Arguments")


def report(error: UserError) -> int:
    """Print what is wrong; returns the exit status for it, 2."""
    print(f"error: {error}", file=sys.stderr)
    return 2


def command_line(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """A ``main`` that ends without a traceback where none would help.

    Its exit status is 2 for what the user can fix; 130 after Ctrl-C; 143 and 129 after SIGTERM and SIGHUP, which
    otherwise act as Ctrl-C does; and 141 where whoever reads has seen enough (``| head``). Characters that the terminal
    cannot show are replaced.
    """

    @functools.wraps(main)
    def command(*arguments: Arguments.args, **options: Arguments.kwargs) -> int:
        with _interrupting_signals() as received:
            try:
                _prepare()
                status = main(*arguments, **options)
                sys.stdout.flush()
            except UserError as error:
                status = report(error)
            except KeyboardInterrupt:
                status = 130
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it when it ends
                status = 141
        return 128 + received[0] if received and status == 130 else status

    return command


def _prepare() -> None:
    """Let no character end a program, and no worker look for the data elsewhere than the user does."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if folder := os.environ.get("NN_DATA_DIR"):
        try:
            os.environ["NN_DATA_DIR"] = str(path(folder))
        except argparse.ArgumentTypeError as error:
            raise UserError(f"NN_DATA_DIR: {error}") from error


@contextlib.contextmanager
def _interrupting_signals() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does; yields those that came. Ignored ones (nohup) stay ignored."""
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        interrupt = signal.getsignal(signal.SIGINT)
        if callable(interrupt):
            interrupt(signal.SIGINT, frame)
        else:  # ignored, as it is for what a shell starts behind &
            raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            if (number := getattr(signal, name, None)) and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handle)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
