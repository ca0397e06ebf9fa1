"""The commands together, and what their endings mean.

Exit codes: 0 done; 1 some cases of many failed, the others are done; 2 bad input, one line on stderr says
what to do; 3 an internal error, with its traceback; 130 stopped with Ctrl-C or SIGTERM, what was finished is kept.

Other packages may add commands through the entry point group ``desam.commands`` (``research/`` adds ``benchmark``).
"""

from __future__ import annotations

import errno
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from typing import Annotated

import typer
from DeSAMSegmentLib import __version__
from DeSAMSegmentLib.engine.runtime.allocator import tune_allocator
from DeSAMSegmentLib.errors import DeSAMError, printable

from .remedies import REMEDIES

# before our own commands: research adds variants, which their help lists
_ADDED = {each.name: each.load() for each in entry_points(group="desam.commands")}

from . import adapt, evaluate, info, models, segment, train, weights, worker  # noqa: E402

DONE, SOME_FAILED, BAD_INPUT, INTERNAL, STOPPED = 0, 1, 2, 3, 130

app = typer.Typer(
    name="desam",
    help="Fine-tune DeSAM on a few volumes, segment every slice without a click, and evaluate the result.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
app.command("segment")(segment.command)
app.command("train")(train.command)
app.command("adapt")(adapt.command)
app.command("evaluate")(evaluate.command)
app.add_typer(weights.app, name="weights")
app.add_typer(models.app, name="models")
app.command("info")(info.command)
app.command("worker")(worker.command)
for _name, _command in _ADDED.items():
    app.command(_name)(_command)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    if version:
        print(f"desam {__version__}")
        raise typer.Exit()


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and turns its ending into an exit code; a user's mistake is one line on stderr."""
    tune_allocator()
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # what schedulers send ends a job as Ctrl-C does
    if hasattr(sys.stdout, "reconfigure"):  # a name that the code page lacks is shown with escapes
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.filterwarnings("ignore")  # those of torch and MONAI speak to programmers
    try:
        given = None if arguments is None else list(arguments)
        code = app(args=given, prog_name="desam", standalone_mode=False)
        if code == STOPPED:  # typer's newer versions catch Ctrl-C themselves
            raise KeyboardInterrupt
        return code if isinstance(code, int) else DONE
    except (KeyboardInterrupt, typer.Abort):
        return _fail("Stopped.", STOPPED)
    except DeSAMError as error:
        return _fail(error.in_words(REMEDIES), BAD_INPUT)
    except OSError as error:
        return _fail(_words(error), BAD_INPUT)
    except Exception as error:
        # usage errors: typer carries its own copy of click or uses the installed one, so no class to name
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            return _usage(error)
        traceback.print_exc()
        return INTERNAL


def _usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    message = error.format_message()  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":  # a command without arguments: the message is its help
        print(message)
        return BAD_INPUT
    text = " ".join(message.split())
    name = context.command_path if context is not None else "desam"
    return _fail(f"{text.rstrip('.')}. '{name} --help' lists the options.", BAD_INPUT)


def _words(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full. Free some space or choose another folder; nothing half-written was left."
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}."


def _fail(text: str, code: int) -> int:
    print(f"desam: {printable(text)}", file=sys.stderr)
    return code
