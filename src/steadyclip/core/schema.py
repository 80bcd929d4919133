"""JSON files of ours, typed and versioned. One that cannot be used is one line: which file and field, what to do."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec

from steadyclip.core.errors import DataError
from steadyclip.core.files import write_atomic

D = TypeVar("D", bound="Document")


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what is written to a JSON file of its own; a subclass has the fields ``schema`` and ``kind``."""

    SCHEMA: ClassVar[int]
    KIND: ClassVar[str]
    SPELLED: ClassVar[str]
    """What the file is, for messages."""
    REDO: ClassVar[str]
    """How a file that cannot be used is made again, for messages."""

    def to_json(self) -> str:
        """The document as JSON text, with a checksum. Numbers are finite, or a ``ValueError`` is raised."""
        content = msgspec.to_builtins(self)
        content["checksum"] = checksum(content)
        return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, path: str | Path) -> Path:
        """Write the document in one step: a reader never sees half of it."""
        write_atomic(Path(path), self.to_json().encode())
        return Path(path)

    @classmethod
    def read(cls: type[D], path: str | Path) -> D:
        """The document in the file ``path``.

        Raises:
            DataError: not there, not JSON, another kind or schema, or a field missing, unknown or of the wrong type.
        """
        return cls.from_content(parse(Path(path), cls.REDO), path)

    @classmethod
    def from_content(cls: type[D], content: Any, path: str | Path) -> D:
        """The document of parsed JSON; ``path`` is named in messages. Raises as ``read``."""
        if not isinstance(content, dict) or content.get("kind") != cls.KIND:
            found = f"field 'kind' is {content.get('kind')!r}" if isinstance(content, dict) else "it is no JSON object"
            raise DataError(f"{path} is not {cls.SPELLED} ({found}, not {cls.KIND!r}): name another file.")
        schema = content.get("schema")
        if type(schema) is int and schema < cls.SCHEMA:
            raise DataError(
                f"{path} is {cls.SPELLED} of version 0.x (schema {schema}), which does not say what was in its images: "
                f"{cls.REDO}."
            )
        if schema != cls.SCHEMA:
            raise DataError(
                f"{path}: field 'schema' is {schema!r} and this version reads {cls.SCHEMA}: use the version that wrote "
                f"it, or {cls.REDO}."
            )
        try:
            found = msgspec.convert({name: value for name, value in content.items() if name != "checksum"}, cls)
        except msgspec.ValidationError as error:
            raise DataError(f"{path}: {_spelled(str(error))}: {cls.REDO}.") from None
        if content.get("checksum") not in (None, checksum(content)):  # version 1.0 wrote none
            raise DataError(f"{path} was changed or damaged, its checksum does not fit: {cls.REDO}.")
        return found


def checksum(content: dict[str, Any]) -> str:
    """16 hex digits over a JSON object, less its own field ``checksum``."""
    rest = {name: value for name, value in content.items() if name != "checksum"}
    text = json.dumps(json.loads(json.dumps(rest)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def parse(path: Path, redo: str) -> Any:
    """The JSON in a file. Raises DataError; ``redo`` says how the file is made again."""
    try:
        return msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): name a file that is there, or {redo}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not a JSON file ({error}): {redo}.") from error


def _spelled(error: str) -> str:
    """msgspec's ``Expected `int`, got `str` - at `$.data.images` `` with the field first."""
    words, _, place = error.partition(" - at `$")
    place = place.rstrip("`").removeprefix(".")
    if named := re.fullmatch(r"Object (missing required|contains unknown) field `(.+)`", words):
        field = f"{place}.{named[2]}" if place else named[2]
        return f"field {field!r} is {'missing' if named[1].startswith('missing') else 'unknown'}"
    words = words[0].lower() + words[1:]
    return f"field {place!r}: {words}" if place else words
