"""The terminal: any name is shown, none is taken for markup or a command, and none breaks a table."""

import contextlib
import io
import logging
import random
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.progress import TextColumn

from hybrid_pruning import console as terminal

HOSTILE = ("[/x]", "[unknown]", "[bold]b[/bold]", ":x:", "[link=http://x]y[/link]", "\\[x]", "{0}", "名前", "e\u0301")
COMMANDS = ("\x1b]0;owned\x07", "\x9b31m", "a\nb", "a\r", "\x08", "\u202eabc", "\u2066x", "\udcff", "\U000e0041")
OBEYED = {chr(code) for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}


class Screen(contextlib.ExitStack):
    def __init__(self, encoding):
        super().__init__()
        self.encoding, self._stream = encoding, io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        self.enter_context(contextlib.redirect_stdout(self._stream))
        self.enter_context(contextlib.redirect_stderr(self._stream))

    def lines(self):
        self._stream.seek(0)
        return self._stream.read().split("\n")[:-1]

    def written(self, name):
        return terminal.visible(name).encode(self.encoding, "backslashreplace").decode(self.encoding)


def names(count, seed=0):
    draw = random.Random(seed)
    some = [chr(draw.choice([*map(draw.randrange, (0x300, 0x3000, 0x11000))])) for _ in range(200)]
    return [*HOSTILE, *COMMANDS, *("".join(draw.choices([*HOSTILE, *COMMANDS, *some], k=6)) for _ in range(count))]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_line_is_a_line_and_holds_its_text(encoding):
    found = names(100)
    with Screen(encoding) as screen:
        for name in found:
            terminal.say(name, ("and ", "bold"), name, style="yellow")
            terminal.warn(name)
            terminal.say_row([name, 1.5])
            terminal.say_rule(name)
    lines = screen.lines()
    assert len(lines) == 4 * len(found)
    assert not OBEYED & set("".join(lines).replace("\t", ""))
    for name, (said, warned, row, ruled) in zip(found, zip(*[iter(lines)] * 4, strict=False), strict=True):
        text = screen.written(name)
        assert (said, warned, row) == (f"{text}and {text}", f"warning: {text}", f"{text}\t1.5")
        assert ruled.startswith(text[:20])


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_table_lines_up_and_loses_nothing(encoding):
    found = names(100, seed=1)
    rows = [(name, [("x", "red"), name], (name, "bold")) for name in found]
    with Screen(encoding) as screen:
        terminal.say_table(terminal.Table(("name", "[b]", "n"), rows, "a [/title]", "a [/note]", left=2))
    lines = screen.lines()
    assert "a [/title]" in lines[0]
    assert "a [/note]" in lines[-1]
    table = lines[1:-1]
    assert len({cell_len(line) for line in table}) == 1, "a row is a line, and all are as wide"
    assert not OBEYED & set("".join(lines))
    for name, line in zip(found, table[3:-1], strict=True):
        assert line.count(screen.written(name)) >= 3


def test_lines_are_folded_on_a_terminal_alone(capsys, monkeypatch):
    name = "".join(map(str, range(100)))
    terminal.say_table(terminal.Table(("name",), [(name,)]))
    assert f" {name} " in capsys.readouterr().out
    monkeypatch.setattr(terminal.console, "_force_terminal", True)
    monkeypatch.setattr(terminal.console, "_width", 40)
    terminal.say_table(terminal.Table(("name",), [(name,)]))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) == 40
    assert "".join(line.strip("│ ") for line in lines[3:-1]) == name


def test_a_progress_bar_takes_descriptions_as_text():
    bar = terminal.progress_bar("{task.fields[state]}")
    bar.add_task("listing [/x] :x: {0}\x1b]0;owned\x07", total=1, state="[unknown]")
    shown = [str(column.render(bar.tasks[0])) for column in bar.columns if isinstance(column, TextColumn)]
    assert shown == ["listing [/x] :x: {0}\\x1b]0;owned\\x07", "[unknown]"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        ("doctors > /dev/full", 2, "No such command 'doctors'"),
        ("--help > /dev/full", 2, "standard output: cannot be written (No space left on device)"),
        ("--help >&-", 2, "standard output is closed"),
        ("doctors 2> /dev/full", 2, ""),
        ("doctors 2>&-", 2, ""),
        ("--help <&- | (exit 0)", 141, ""),
        ("--help > /dev/null", 0, ""),
    ],
)
def test_a_stream_that_takes_no_more_is_one_line(command, code, line):
    script = f"{sys.executable} -m hybrid_pruning.cli {command}; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert ran.stderr.count("\n") == bool(line)
    assert line in ran.stderr


def test_ctrl_c_is_one_line(cli, monkeypatch):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr("hybrid_pruning.reporting.doctor.print_doctor", stop)
    assert cli("doctor") == (130, "", "hybrid-pruning: interrupted\n")


def test_messages_of_libraries_are_visible_text(monkeypatch, caplog):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    factory = logging.getLogRecordFactory()
    terminal.open_streams()
    logging.getLogger("transformers").error("%s\nowned", "\x1b]0;")
    logging.setLogRecordFactory(factory)
    assert caplog.records[-1].getMessage() == "\\x1b]0;\nowned"
    assert "\x1b" not in warnings.formatwarning("\x1b]0;owned", UserWarning, "f", 1, "")


@pytest.mark.parametrize(
    ("text", "line"),
    [("a\n  b\r\nc", "a b c"), ("a  b\xa0c", "a  b\xa0c"), ("\x1b[2Jx", "\\x1b[2Jx"), ("می\u200cروم", "می\u200cروم")],
)
def test_a_message_is_one_line(text, line):
    assert terminal.printable(text) == line
