"""Templates without a guest: which one is whose, when one is good, who makes one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pyvmm_kata.config import settings
from pyvmm_kata.errors import ConfigError, HostError
from pyvmm_kata.sandbox import templates
from pyvmm_kata.sandbox.templates import FILES, Kind


@pytest.fixture
def kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kind:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("kernel", "image"):
        (tmp_path / name).write_text(name)
    return Kind(str(tmp_path / "kernel"), str(tmp_path / "image"), "quiet", 128 << 20, 1, "mmio", 1)


class Maker:
    """Writes what a template consists of, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, _kind: Kind, place: str) -> str:
        self.times += 1
        made = Path(place, "made")
        made.mkdir(mode=0o700)
        for name in FILES:
            (made / name).write_text(f"{name} {self.times}")
        return str(made)


def test_another_machine_has_another_template(kind: Kind) -> None:
    others = [
        kind._replace(**change)
        for change in (
            {"cmdline": "loud"},
            {"memory": 256 << 20},
            {"vcpus": 2},
            {"transport": "pci"},
            {"nets": 0},
            {"image": kind.kernel},
        )
    ]
    keys = {each.key() for each in (kind, *others)}
    assert len(keys) == 7
    Path(kind.image).write_text("changed")
    assert kind.key() not in keys
    Path(kind.image).unlink()
    with pytest.raises(ConfigError, match="image"):
        templates.build(kind, Maker())


def test_one_that_is_good_is_not_made_again(kind: Kind) -> None:
    maker = Maker()
    key = templates.build(kind, maker)
    assert templates.build(kind, maker) == key == kind.key()
    assert maker.times == 1
    assert templates.names() == [key]
    assert sorted(os.listdir(templates.folder())) == sorted([key, "lock"])


@pytest.mark.parametrize("damage", ["bytes", "another file", "missing", "readable", "seal", "folder", "link"])
def test_one_that_was_changed_is_made_again(kind: Kind, damage: str) -> None:
    maker = Maker()
    path = Path(templates.folder(), templates.build(kind, maker))
    memory = path / "memory"
    if damage == "bytes":
        memory.chmod(0o600)
        with memory.open("r+b") as file:
            file.write(b"M")
        memory.chmod(0o400)
    elif damage == "another file":
        content = memory.read_bytes()
        memory.unlink()
        memory.write_bytes(content)
        memory.chmod(0o400)
    elif damage == "missing":
        memory.unlink()
    elif damage == "readable":
        memory.chmod(0o404)
    elif damage == "seal":
        (path / templates.SEAL).write_text("[" * 100_000)
    elif damage == "folder":
        path.chmod(0o755)
    else:
        path.rename(path.with_name("elsewhere"))
        path.symlink_to("elsewhere")
    with pytest.raises(HostError):
        templates.find(path.name)
    templates.build(kind, maker)
    assert maker.times == 2
    assert Path(templates.find(path.name), "memory").read_text() == "memory 2"


def test_many_at_once_make_one(kind: Kind) -> None:
    maker = Maker()
    threads = [threading.Thread(target=templates.build, args=(kind, maker)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert maker.times == 1


def test_a_maker_that_is_killed_leaves_nothing(kind: Kind) -> None:
    code = """
import os, sys, time
from pyvmm_kata.sandbox import templates
def boot(kind, place):
    open(f"{place}/half", "w").close()
    print("begun", flush=True)
    time.sleep(1000)
templates.build(templates.Kind.parse(sys.argv[1]), boot)
"""
    command = [sys.executable, "-c", code, json.dumps(kind)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        with pytest.raises(HostError, match="made just now"):
            templates.build(kind, Maker(), wait=False)
        process.send_signal(signal.SIGKILL)
    key = templates.build(kind, Maker())
    assert sorted(os.listdir(templates.folder())) == sorted([key, "lock"])


def test_what_cannot_be_made_is_not_tried_at_each_start(kind: Kind) -> None:
    def refuse(_kind: Kind, _place: str) -> str:
        raise HostError("no taps here", code="test")

    assert not templates.has_failed(kind.key())
    with pytest.raises(HostError, match="no taps"):
        templates.build(kind, refuse)
    assert templates.has_failed(kind.key())
    templates.build(kind, Maker())
    assert not templates.has_failed(kind.key())


def test_the_ones_used_last_are_kept(kind: Kind) -> None:
    keys = []
    for vcpus in range(1, templates.MOST + 3):
        keys.append(templates.build(kind._replace(vcpus=vcpus), Maker()))
        for age, key in enumerate(reversed(keys)):
            if (path := Path(templates.folder(), key)).exists():
                os.utime(path, (10**9 - age, 10**9 - age))
    assert templates.names() == keys[:1:-1]


def test_what_settings_and_annotations_say(tmp_path: Path) -> None:
    path = tmp_path / "kata.toml"
    path.write_text('template = "auto"\nannotations = ["template"]\n')
    chosen = settings.load(str(path))
    assert chosen.template == "auto"
    assert chosen.with_annotations({f"{settings.PREFIX}template": "off"}).template == "off"
    with pytest.raises(ConfigError, match=r"template: 'yes' is not one of auto, off"):
        chosen.with_annotations({f"{settings.PREFIX}template": "yes"})
    with pytest.raises(ConfigError, match="not for containers to say"):
        settings.Settings().with_annotations({f"{settings.PREFIX}template": "auto"})
    path.write_text('template = "always"\n')
    with pytest.raises(ConfigError, match="template = 'always' is not one of"):
        settings.load(str(path))
    assert settings.Settings().isolation == "process", "a wall is what there is unless somebody says otherwise"
    path.write_text('isolation = "thread"\n')
    assert settings.load(str(path)).isolation == "thread"
    path.write_text('isolation = "fork"\n')
    with pytest.raises(ConfigError, match="isolation = 'fork' is not one of process, thread"):
        settings.load(str(path))
