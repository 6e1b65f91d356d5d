"""A small stand-in for :func:`dataclasses.dataclass`.

Importing :mod:`dataclasses` costs more than the rest of a warm start (it imports ``inspect``, ``ast`` and ``re``). So
this decorator makes the types on the start-up path. Type checkers see the real one. The result behaves the same as far
as the project uses it: keyword and positional construction, defaults, ``==``, ``hash`` of frozen instances, ``repr``,
``__post_init__``; and :func:`dataclasses.fields`, ``asdict`` and ``replace`` work on it, because
``__dataclass_fields__`` is made on first use.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
    from dataclasses import replace as replace
else:

    class _LazyFields:
        """Makes the real ``__dataclass_fields__`` when a user of :mod:`dataclasses` asks for it."""

        def __get__(self, instance, owner):
            import dataclasses

            defaults = owner.__record_defaults__
            namespace = {"__annotations__": dict.fromkeys(owner.__record_names__, object)}
            namespace.update({name: dataclasses.field(default=value) for name, value in defaults.items()})
            twin = dataclasses.dataclass(type(owner.__name__, (), namespace))
            fields = twin.__dataclass_fields__
            for name, text in owner.__record_types__.items():
                fields[name].type = text
            return fields

    def _init(self, *args, **kwargs):
        cls = type(self)
        names = cls.__record_names__
        if len(args) > len(names):
            raise TypeError(f"{cls.__name__}() takes {len(names)} arguments but {len(args)} were given")
        if not args:
            # Most are made so, and right
            types, made = cls.__record_types__, {**cls.__record_defaults__, **kwargs}
            if len(made) == len(types) and kwargs.keys() <= types.keys():
                _take(self, made)
                return
        values = self.__dict__
        values.update(zip(names, args, strict=False))
        if not kwargs and len(args) == len(names):
            _finish(self)
            return
        for name, value in kwargs.items():
            if name not in names:
                raise TypeError(f"{cls.__name__}() got an unexpected argument {name!r}")
            if name in values:
                raise TypeError(f"{cls.__name__}() got multiple values for {name!r}")
            values[name] = value
        for name in names:
            if name not in values:
                if name not in cls.__record_defaults__:
                    raise TypeError(f"{cls.__name__}() needs {name!r}")
                values[name] = cls.__record_defaults__[name]
        _finish(self)

    def _take(self, values):
        object.__setattr__(self, "__dict__", values)
        _finish(self)

    def _finish(self):
        post = getattr(self, "__post_init__", None)
        if post is not None:
            post()

    def _values(self):
        return tuple(self.__dict__[name] for name in self.__record_names__)

    def _eq(self, other):
        return _values(self) == _values(other) if type(other) is type(self) else NotImplemented

    def _hash(self):
        return hash(_values(self))

    def _repr(self):
        inner = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self.__record_names__)
        return f"{type(self).__qualname__}({inner})"

    def _frozen(self, name, *value):
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed: the object is frozen")

    def dataclass(*, frozen=False):
        def decorate(cls):
            own = cls.__annotations__ if "__annotations__" in cls.__dict__ else getattr(cls, "__annotations__", {})
            types = {k: v for k, v in own.items() if not str(v).startswith("ClassVar")}
            types = {**getattr(cls, "__record_types__", {}), **types}
            cls.__record_types__ = types
            cls.__record_names__ = cls.__match_args__ = tuple(types)
            cls.__record_defaults__ = {
                **getattr(cls, "__record_defaults__", {}),
                **{name: cls.__dict__[name] for name in types if name in cls.__dict__},
            }
            cls.__dataclass_fields__ = _LazyFields()
            cls.__init__, cls.__eq__, cls.__repr__ = _init, _eq, _repr
            cls.__hash__ = _hash if frozen else None
            if frozen:
                cls.__setattr__ = cls.__delattr__ = _frozen
            return cls

        return decorate

    def replace(record, **changes):
        cls = type(record)
        values = {**record.__dict__, **changes}
        if len(values) != len(cls.__record_types__):
            return cls(**values)  # raises an error that names the bad value
        made = cls.__new__(cls)
        _take(made, values)
        return made
