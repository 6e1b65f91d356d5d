"""Sandboxes of stored images, with machines that run their programs here: what is kept, shared and refused."""

from __future__ import annotations

import textwrap

from tests.kata.oci_runtime import needs_namespaces
from tests.sandbox.test_sandbox import Python, place, python

__all__ = ["place", "python"]  # fixtures


IMAGE = """
from pyvmm_kata.image_store.store import ImageStore
os.mkdir(place + "/tree")
open(place + "/tree/file", "w").write("1")
store = ImageStore(place + "/store")
image = store.add(place + "/tree", "box").path
"""


@needs_namespaces
def test_copies_of_a_stored_image(python: Python) -> None:
    """They refer to it; a template keeps it, although the store removes it, also on another file system."""
    code = """
    import tempfile
    elsewhere = tempfile.TemporaryDirectory(dir="/dev/shm")
    with Sandbox(image, **where) as box, box.fork()[0] as copy:
        assert copy.run("echo copy").stdout == "copy\\n"
        template = box.snapshot(place + "/saved")
        again = copy.snapshot(place + "/saved-again")
        copied = box.snapshot(elsewhere.name + "/saved")
    store.remove("box")
    assert not os.path.exists(image)
    for each in (template, again, copied):
        with each.start(**where) as first, first.fork()[0] as second:
            assert first.run("echo 1").stdout + second.run("echo 2").stdout == "1\\n2\\n"
            first.snapshot(place + "/saved")  # the next one uses this: the folder with its own image is removed
    """
    assert python(IMAGE + textwrap.dedent(code)) == ""


@needs_namespaces
def test_an_image_that_is_gone_or_another_is_refused(python: Python) -> None:
    code = """
    with Sandbox(image, **where) as box:
        template = box.snapshot(place + "/saved")
    (saved,) = [name for name in os.listdir(place + "/saved") if name.startswith("saved-")]
    kept = place + "/saved/" + saved + "/root.erofs"
    assert os.stat(kept).st_ino == os.stat(image).st_ino
    # Another file in the place of the store's is not used
    open(place + "/tree/file", "w").write("2")
    os.rename(store.add(place + "/tree", "other").path, image)
    with template.start(**where) as box:
        assert box.run("true").ok
    os.utime(kept, (1, 1))
    assert "is not the root file system" in str(raises(VmmError, template.start, **where))
    os.unlink(kept)
    assert "is not the root file system" in str(raises(VmmError, template.start, **where))
    os.unlink(image)
    assert image in str(raises(VmmError, template.start, **where))
    """
    python("from pyvmm_kata.errors import VmmError" + IMAGE + textwrap.dedent(code))
