"""The `cryomorph` command.

Nothing heavy is imported before a command is chosen, so that `cryomorph --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from cryomorph.cli.signals import Stop


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: the process's own) and return its exit status: no exception leaves here.

    0 done; 1 a bug (traceback) or a full disk; 2 something for the user to correct, said in one sentence; 130
    interrupted, 143 terminated. `CRYOMORPH_DEBUG=1` adds the traceback to every error.
    """
    stop = Stop()
    if argv is None:
        stop.watch()
    from cryomorph.cli.failures import explain, explain_stop  # from here on Ctrl-C ends in one line
    from cryomorph.cli.parse import load, parse
    from cryomorph.config.console import attach_console

    attach_console()
    words = list(sys.argv[1:] if argv is None else argv)
    config: Any = None
    try:
        chosen = parse(words)
        if chosen is not None:
            runner, config = chosen
            _announce(words)
            load(runner)(config)
        sys.stdout.flush()
        return 0
    except SystemExit as end:  # how the option parser ends after --help or a wrong option
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt as error:
        return explain_stop(error, *stop.said)
    except Exception as error:
        if stop.signal is not None:  # an import, or code of another language, that was stopped midway
            return explain_stop(error, *stop.said)
        return explain(error, config)


def _announce(words: list[str]) -> None:
    """Say at once what was understood, to a person at a terminal: imports take seconds."""
    if sys.stderr.isatty():
        from cryomorph import __version__

        print(f"cryomorph {__version__}: {' '.join(words)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
