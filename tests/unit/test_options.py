"""Lists of options: parsed, explained and refused by one table."""

from __future__ import annotations

import pytest

from vmm import ConfigError
from vmm.config.options import Key, Syntax, number, size, switch, word

SYNTAX = Syntax(
    "thing",
    "a thing",
    (
        Key("ro", "", "read only", "read_only"),
        Key("queues", "N", "so many", convert=number),
        Key("room", "SIZE", "so large", convert=size),
        Key("fast-lane", "on|off", "or not", convert=switch),
        Key("label", "TEXT", "a name", convert=word),
        Key("note", "TEXT", "of any kind", "notes", many=True),
    ),
    first="FILE",
    of="file",
)


def test_values_by_field() -> None:
    text = "a,,b,ro,queues=2,room=1M,fast-lane=off,label=x=y,note=,note=two"
    assert SYNTAX.parse(text, "--thing") == {
        "first": "a,b",
        "read_only": True,
        "queues": 2,
        "room": 1 << 20,
        "fast_lane": False,
        "label": "x=y",
        "notes": ["", "two"],
    }


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "no file is named"),
        (",ro", "no file is named"),
        ("f,", "option '' is not known"),
        ("f,RO", "option 'RO' is not known"),
        ("f,ro=1", "option 'ro=1' is not known"),
        ("f,queues", "option 'queues' is not known"),
        ("f,queues=-1", "option 'queues=-1' is not known"),
        ("f,queues=\u0663", "option 'queues=\u0663' is not known"),
        ("f,queues=" + "9" * 99, "is not known"),
        ("f,fast-lane=maybe", "option 'fast-lane=maybe' is not known"),
        ("f,label=", "option 'label=' is not known"),
        ("f,queues=1,queues=2", "queues comes twice"),
        ("f,room=much", "--thing room 'much' is not a size"),
    ],
)
def test_what_it_refuses(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SYNTAX.parse(text, "--thing")
    assert words in str(caught.value)
    if "size" not in words:
        assert caught.value.code == "thing-syntax"
        assert caught.value.hint.startswith("--thing FILE[,ro][,queues=N]")


def test_what_it_says_of_itself() -> None:
    lines = SYNTAX.help("--thing").splitlines()
    assert lines[0] == "--thing FILE, then with commas between:"
    assert [line.split()[0] for line in lines[1:]] == [key.shown() for key in SYNTAX.keys]
    assert Syntax("x", "", (Key("on", "", ""), Key("n", "N", ""))).usage("--x") == "--x [on][,n=N]"
