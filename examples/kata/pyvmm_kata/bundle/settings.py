"""The default configuration of sandboxes: the administrator's file, and the annotations that change it.

The file is TOML: ``/etc/pyvmm/kata.toml``, or what ``PYVMM_KATA_CONFIG`` or ``pyvmm-oci --config`` names::

    kernel = "/usr/share/pyvmm/vmlinux"
    image = "/usr/share/pyvmm/kata.erofs"
    memory = "512M"             # of a pod without a memory limit
    vcpus = 1                   # of a pod without a CPU limit
    kernel_params = ""          # appended to the guest kernel's command line
    template = "off"            # "auto", which a pool implies: machines are clones of one that has booted.  A Sentry
                                # boots in any case, which takes a few milliseconds; its machines have one size then
    guest = "linux"             # "sentry": containers run on this project's own kernel, without Linux
    isolation = "process"       # machines have a jailed one of their own; "thread": they are in the monitor
    policy = ""                 # a file with the requests that the guest's agent serves; empty: all
    annotations = []            # what containers may ask for: "default_memory", "default_vcpus", "kernel_params",
                                # "kernel", "image", "template", "policy", "network", "publish", "isolation"; or
                                # true: all of it
    pool = 0                    # how many machines pyvmm-poold keeps ready
    max_memory = "0M"           # the most that default_memory may say; 0: what the host has
    more_memory = "0M"          # how much more a machine may get while it runs, when limits are raised (update)
    more_cpus = 0               # and how many more CPUs
    more_disks = false          # whether containers with disks (volumeDevices, roots on disks) can come into any pod of
                                # containerd's; else only into those whose first container has one
    traces = ""                 # of the starts of containerd's pods: the URL of a collector of OpenTelemetry, for
                                # example "http://127.0.0.1:4318/v1/traces" (OTLP over HTTP)

Without ``kernel`` or ``image``, and where the default path has no file, that of the package pyvmm-guest is used.

The annotations are Kata's, one like them for ``template``, and ``io.pyvmm.network`` (``user``: a network that needs no
rights, instead of the namespace's) and ``io.pyvmm.publish`` (ports of the host that lead into it, ``8080:80
127.0.0.1:5353:53/udp``).  None is taken that is not named here.  A kernel or an
image that they name must be in the folder of the one named here.  The policy of an annotation is base64, and takes the
place of the file's (:mod:`pyvmm_kata.bundle.policy`).
"""

from __future__ import annotations

import json
import os
from _blake2 import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from pyvmm_kata.bundle.sizes import parse_size
from pyvmm_kata.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

    from pyvmm_kata.bundle.policy import Policy
    from pyvmm_kata.state import Json

FILE = "/etc/pyvmm/kata.toml"
VARIABLE = "PYVMM_KATA_CONFIG"
MIB = 1 << 20
GUEST_OVERHEAD = 96 * MIB
"""What the guest's kernel, its agent and crun need beside what a container may use."""
MIN_MEMORY = 128 * MIB
MAX_VCPUS = 32
MORE_STEP, MORE_MOST = 128 * MIB, 256 << 30
"""Of what a machine may get: guests add memory in pieces of that size."""
MAX_POOL = 64
TEMPLATES = ("auto", "off")
ISOLATIONS = ("process", "thread")
GUESTS = {"vm": "linux", "sentry": "sentry"}
"""Kinds of guests, by the words of ``--isolation`` and of the annotation."""


class Settings(NamedTuple):
    """The module's docstring describes each."""

    kernel: str = "/usr/share/pyvmm/vmlinux"
    image: str = "/usr/share/pyvmm/kata.erofs"
    memory: int = 512 * MIB
    vcpus: int = 1
    kernel_params: str = ""
    annotations: tuple[str, ...] = ()
    max_memory: int = 0
    template: str = "off"
    isolation: str = "process"
    guest: str = "linux"
    policy: Policy | None = None
    pool: int = 0
    more_memory: int = 0
    more_cpus: int = 0
    more_disks: bool = False
    traces: str = ""
    network: str = ""
    publish: str = ""

    def allow(self, names: Iterable[str]) -> Settings:
        """With these annotations allowed, too."""
        return self._replace(annotations=(*self.annotations, *names)) if names else self

    def with_annotations(self, annotations: Mapping[str, str]) -> Settings:
        """The settings changed by a container's annotations.

        :raises ConfigError: one of them is invalid, or containers may not set it
        """
        found: dict[str, Any] = {}
        for each in ANNOTATIONS.values():
            if each.key not in annotations:
                continue
            if each.name not in self.annotations:
                raise ConfigError(
                    f"annotation {each.key} may not be set by containers",
                    code="oci-annotation",
                    hint=f'annotations = ["{each.name}"] in {FILE} allows it to everybody who may create a container',
                )
            found[each.setting] = each.parse(annotations[each.key], self, f"annotation {each.key}")
        return self._replace(**found)

    def size(self, resources: Mapping[str, Json], *, clone: bool = True) -> tuple[int, int]:
        """Bytes of memory and number of CPUs of the machine that is made for a pod with such limits.

        Clones have the usual size, so that one template, and one pool, serve pods of all limits: the guest enforces
        limits below it, and the machine grows to those above it where it may (:func:`needed`, ``MachineSize.fit``).

        :param resources: ``linux.resources``
        :param clone: the machine can be one of a template
        """
        memory, vcpus = needed(resources, self.memory, self.vcpus)
        if not clone or self.template != "auto":
            return memory, vcpus
        usual_memory, usual_vcpus = needed({}, self.memory, self.vcpus)
        # Only the agent can bring CPUs online, and a policy may not let it
        most = usual_vcpus if self.policy is not None else most_cpus(usual_vcpus, self.more_cpus)
        more = self.more_memory if self.guest == "linux" else 0
        fits = memory <= usual_memory + more and vcpus <= most
        return (usual_memory, usual_vcpus) if fits else (memory, vcpus)


def needed(resources: Mapping[str, Json], memory: int, vcpus: int) -> tuple[int, int]:
    """Bytes of memory and number of CPUs that a machine needs for a pod with such limits.

    :param resources: ``linux.resources``
    :param memory: where there is no limit of memory
    :param vcpus: where there is none of CPU time
    """
    limit = (resources.get("memory") or {}).get("limit") or 0
    memory = max(limit + GUEST_OVERHEAD if limit > 0 else memory, MIN_MEMORY)
    cpu = resources.get("cpu") or {}
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 100_000
    vcpus = -(-quota // period) if quota > 0 and period > 0 else vcpus
    return -(-memory // (2 * MIB)) * 2 * MIB, max(1, min(vcpus, MAX_VCPUS))


def most_cpus(vcpus: int, more: int) -> int:
    """The largest number of CPUs of a machine that starts with *vcpus* and may get *more*."""
    return min(vcpus + more, MAX_VCPUS)


# -- annotations -----------------------------------------------------------------------------------------------------


def _beside(path: str, own: str, what: str) -> str:
    """Refuse other folders: otherwise a container's user could read any file of the host as a kernel or an image."""
    if os.path.dirname(os.path.realpath(path)) != os.path.dirname(os.path.realpath(own)):
        raise ConfigError(
            f"{what}: {path} is not in the folder of {own}",
            code="oci-annotation",
            hint="kernels and images to choose from are beside those of the settings",
        )
    return path


def _number(text: str, what: str) -> int:
    digits = text.partition(".")[0]
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10 and int(digits) > 0):
        raise ConfigError(f"{what}: {text!r} is not a number above 0", code="oci-annotation")
    return int(digits)


def _memory(text: str, chosen: Settings, what: str) -> int:
    memory = _number(text, what) * MIB
    most = chosen.max_memory or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if memory > most:
        raise ConfigError(
            f"{what}: {memory} bytes are more than {most}",
            code="oci-annotation",
            hint=f"max_memory in {FILE} sets the limit",
        )
    return memory


def _policy(text: str, _chosen: Settings, what: str) -> Policy:
    from pyvmm_kata.bundle import policy

    return policy.decode(text, what.partition(" ")[2])


def _network(text: str, _chosen: Settings, what: str) -> str:
    if text not in ("", "user"):
        raise ConfigError(f"{what}: {text!r:.60} is not user", code="oci-annotation")
    return text


def with_network(chosen: Settings, word: str) -> Settings:
    """For the word of ``--network``: the namespace's, none, or the user's.

    :raises ConfigError: there is no such network
    """
    if word not in ("sandbox", "none", "user"):
        raise ConfigError(f"--network: {word!r:.60} is not one of sandbox, none, user", code="oci-network")
    return chosen._replace(network="" if word == "sandbox" else word)


def guest_named(word: str, what: str) -> str:
    """The kind of guest for a word of ``--isolation``.

    :raises ConfigError: there is none
    """
    if word not in GUESTS:
        raise ConfigError(f"{what}: {word!r:.60} is not one of {', '.join(GUESTS)}", code="oci-isolation")
    return GUESTS[word]


class Annotation(NamedTuple):
    """What a container may ask for, if ``annotations`` of the file names it.

    :ivar name: by which the file names it
    :ivar key: of config.json
    :ivar setting: the field of :class:`Settings` that it changes
    :ivar parse: makes the field's value of the text, the settings and the beginning of an error
    """

    name: str
    key: str
    setting: str
    parse: Callable[[str, Settings, str], object]


PREFIX = "io.katacontainers.config.hypervisor."
POLICY, NETWORK, PUBLISH = "io.katacontainers.config.agent.policy", "io.pyvmm.network", "io.pyvmm.publish"
ISOLATION = "io.pyvmm.isolation"
ANNOTATIONS = {
    each.name: each
    for each in (
        Annotation("kernel", f"{PREFIX}kernel", "kernel", lambda text, own, what: _beside(text, own.kernel, what)),
        Annotation("image", f"{PREFIX}image", "image", lambda text, own, what: _beside(text, own.image, what)),
        Annotation("kernel_params", f"{PREFIX}kernel_params", "kernel_params", lambda text, own, what: text),
        Annotation("default_memory", f"{PREFIX}default_memory", "memory", _memory),
        Annotation("default_vcpus", f"{PREFIX}default_vcpus", "vcpus", lambda text, own, what: _number(text, what)),
        Annotation(
            "template",
            f"{PREFIX}template",
            "template",
            lambda text, own, what: _template(text, f"{what}: ", "oci-annotation"),
        ),
        Annotation("policy", POLICY, "policy", _policy),
        Annotation("network", NETWORK, "network", _network),
        Annotation("publish", PUBLISH, "publish", lambda text, own, what: text),
        Annotation("isolation", ISOLATION, "guest", lambda text, own, what: guest_named(text, what)),
    )
}
"""All of them; a new one is a line here, and what uses its setting."""
OF_CONTAINERS = ("network", "publish")
"""Settings that only annotations have: the file has none for all containers."""


# -- the file --------------------------------------------------------------------------------------------------------


def load(path: str = "") -> Settings:
    """The administrator's settings.

    :param path: of the file; empty: the default path, if it exists
    :raises ConfigError: it contains an error
    """
    named = path or os.environ.get(VARIABLE, "")
    try:
        with open(named or FILE, "rb") as file:
            values = _parsed(file.read(), os.path.abspath(named or FILE))
    except FileNotFoundError as error:
        if named:
            raise ConfigError(f"{named}: {error.strerror}", code="kata-config") from error
        return _with_packaged(Settings(), ())
    except OSError as error:
        raise ConfigError(f"{named or FILE}: {error.strerror}", code="kata-config") from error
    except ValueError as error:
        raise ConfigError(f"{named or FILE}: {error}", code="kata-config") from error
    return _with_packaged(_check(values, named or FILE), values)


def _with_packaged(chosen: Settings, named: Container[str]) -> Settings:
    """With the files of the package pyvmm-guest, if it is installed, for those that are not *named* nor at the default
    path."""
    missing = [name for name in ("kernel", "image") if name not in named and not os.path.exists(getattr(chosen, name))]
    if not missing:
        return chosen
    try:
        import pyvmm_guest
    except ImportError:
        return chosen
    return chosen._replace(**{name: getattr(pyvmm_guest, name)() for name in missing})


def _parsed(data: bytes, path: str) -> Json:
    """TOML. The result of the last parsing is kept in the user's cache: otherwise each process with a machine would
    have the parser in memory.

    :raises ValueError: it is no TOML
    """
    content, kept = blake2b(data, digest_size=16).hexdigest(), _kept(path)
    try:
        fd = os.open(kept, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            # A user who can write it decides what containers run on
            if status.st_uid == os.geteuid() and not status.st_mode & 0o022:
                found = json.loads(file.read())
                if isinstance(found, dict) and found.get("content") == content and isinstance(found["values"], dict):
                    return found["values"]
    except (OSError, ValueError, KeyError, RecursionError):
        pass  # there is none
    import tomllib

    values = tomllib.loads(data.decode())
    _keep(kept, {"content": content, "values": values})
    return values


def place_caches() -> None:
    """Keep the caches of root's services, which have no home, in ``/var/cache``, as the C programs do."""
    if not os.geteuid() and not {"XDG_CACHE_HOME", "HOME"} & os.environ.keys():
        os.environ["XDG_CACHE_HOME"] = "/var/cache"


def cache_folder() -> str:
    """The directory of our caches of the user; empty: there is none."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        home = os.environ.get("HOME", "")
        if not home.startswith("/"):
            return ""
        base = f"{home}/.cache"
    return f"{base}/pyvmm"


def _kept(path: str) -> str:
    """One of 16 files, so that a program that writes a new file for each container does not fill the cache."""
    where = cache_folder()
    return f"{where}/settings-{blake2b(os.fsencode(path), digest_size=1).hexdigest()[0]}.json" if where else ""


def _keep(path: str, found: Json) -> None:
    new = f"{path}.{os.getpid()}"
    try:
        text = json.dumps(found)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        try:
            with open(new, "x", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as file:
                file.write(text)
            os.rename(new, path)
        except BaseException:
            os.unlink(new)
            raise
    except (OSError, TypeError):
        pass  # no folder, no room; or a date, which no setting is


def _check(values: Json, path: str) -> Settings:
    defaults = Settings()
    for key, value in values.items():
        if key not in Settings._fields or key in OF_CONTAINERS:
            known = ", ".join(name for name in Settings._fields if name not in OF_CONTAINERS)
            raise ConfigError(f"{path}: {key} is not known", code="kata-config", hint=f"there are {known}")
        if key in ("memory", "max_memory", "more_memory") and isinstance(value, str):
            values[key] = parse_size(value, f"{path}: {key} =", "kata-config")
        elif key == "annotations":
            values[key] = _names(value, path)
        elif key == "policy" and isinstance(value, str):
            values[key] = None
            if value:
                from pyvmm_kata.bundle import policy

                values[key] = policy.read(os.path.join(os.path.dirname(path), value))
        elif type(value) is not type(getattr(defaults, key)):
            raise ConfigError(f"{path}: {key} = {value!r} is of the wrong kind", code="kata-config")
    if values.get("pool"):
        values = {"template": "auto", **values}  # the machines of a pool are clones
    made = defaults._replace(**values)
    _template(made.template, f"{path}: template = ", "kata-config")
    if made.guest not in GUESTS.values():
        words = f"{path}: guest = {made.guest!r:.60} is not one of {', '.join(GUESTS.values())}"
        raise ConfigError(words, code="kata-config")
    if made.isolation not in ISOLATIONS:
        words = f"{path}: isolation = {made.isolation!r:.60} is not one of {', '.join(ISOLATIONS)}"
        raise ConfigError(words, code="kata-config")
    if made.traces and not made.traces.startswith(("http://", "https://")):
        words = f"{path}: traces = {made.traces!r:.200} is no URL of HTTP"
        raise ConfigError(words, code="kata-config", hint='for example "http://127.0.0.1:4318/v1/traces"')
    if made.more_memory % MORE_STEP or not 0 <= made.more_memory <= MORE_MOST:
        raise ConfigError(
            f"{path}: more_memory = {made.more_memory}: not 0 to {MORE_MOST >> 30} GiB in steps of 128 MiB",
            code="kata-config",
            hint='for example "1G"; "0M": machines keep the memory with which they are made',
        )
    if not 1 <= made.vcpus <= MAX_VCPUS:
        raise ConfigError(f"{path}: vcpus = {made.vcpus} is not 1 to {MAX_VCPUS}", code="kata-config")
    if not 0 <= made.more_cpus < MAX_VCPUS:
        raise ConfigError(f"{path}: more_cpus = {made.more_cpus} is not 0 to {MAX_VCPUS - 1}", code="kata-config")
    if not 0 <= made.pool <= MAX_POOL:
        raise ConfigError(f"{path}: pool = {made.pool} is not 0 to {MAX_POOL}", code="kata-config")
    if made.pool and made.template == "off":
        raise ConfigError(
            f"{path}: pool = {made.pool}: the machines of a pool are clones of a template",
            code="kata-config",
            hint='it needs template = "auto"',
        )
    return made


def _template(value: str, what: str, code: str) -> str:
    if value not in TEMPLATES:
        raise ConfigError(f"{what}{value!r:.60} is not one of {', '.join(TEMPLATES)}", code=code)
    return value


def _names(value: object, path: str) -> tuple[str, ...]:
    names = tuple(ANNOTATIONS) if value is True else () if value is False else value
    if not isinstance(names, list | tuple) or any(name not in ANNOTATIONS for name in names):
        raise ConfigError(f"{path}: annotations = {value!r} is no list of {', '.join(ANNOTATIONS)}", code="kata-config")
    return tuple(names)
