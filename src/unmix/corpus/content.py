"""What one document may be: a text, token ids, or a chat."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray


class Ids(NamedTuple):
    """Token ids that somebody else made."""

    ids: NDArray[np.integer[Any]]
    """One-dimensional, of any integer dtype; not checked yet."""
    where: str
    """File and row, for messages."""
    stream: bool = False
    """Whether it is a whole file of documents, one behind the other, which is still to be cut."""
    of_stream: bool = False
    """Whether it was cut out of one."""
    ended: bool = True
    """Whether the document ends where the ids do; not where a long stream without separators had to be cut."""


class Chat(NamedTuple):
    """Messages of `role` and `content`, and whatever else a chat template may want of them."""

    messages: list[dict[str, Any]]
    where: str


Content: TypeAlias = str | Ids | Chat

NAMES: dict[type, str] = {str: "text", Ids: "token ids", Chat: "chats"}
