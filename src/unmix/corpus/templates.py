"""Chats as the model's chat template writes them, and which of their characters are whose.

A template is run twice: on the messages, and on messages whose contents are words that occur nowhere else. What stands
between those words is the template's; laid over the first result, it leaves the contents. So it works for any template
that writes each content once and in order, with or without `{% generation %}` marks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from unmix.config.corpus import SourceConfig
from unmix.corpus.content import Chat
from unmix.disk import at_home
from unmix.errors import UserError

_WORD = "unmixcontent{}q"


class Span(NamedTuple):
    """Characters first … last - 1 of a written chat that are the content of one message."""

    first: int
    last: int
    role: str


def template_text(config: SourceConfig) -> str | None:
    """The template of `corpus.template`, None if none is given. Raises `UserError` if the file cannot be read."""
    if config.template is None:
        return None
    try:
        return at_home(config.template).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read corpus.template = {config.template}: {error}") from None


class Template:
    """The chat template of a tokenizer, or one of a file."""

    def __init__(self, tokenizer: Any, config: SourceConfig) -> None:
        """Raises `UserError` if there is none, or the file cannot be read."""
        self.tokenizer = tokenizer
        self.text = template_text(config)
        if self.text is None and not tokenizer.chat_template:
            raise UserError(
                f"{config.source} holds chats, and the tokenizer of {tokenizer.name_or_path} has no chat template; "
                "give one in a file (--corpus.template FILE.jinja), or a model that was trained on chats"
            )

    def write(self, chat: Chat) -> str:
        """The chat as one text. Raises `UserError`, naming its place, if the template refuses it."""
        try:
            return str(self.tokenizer.apply_chat_template(chat.messages, tokenize=False, chat_template=self.text))
        except Exception as error:  # a template raises what it likes
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"{chat.where}: the chat template refuses this chat ({why}); mend or remove it") from None

    def spans(self, chat: Chat, written: str) -> list[Span]:
        """Where the contents stand in what `write` gave; an empty content stands nowhere.

        Raises `UserError`, naming its place, if the template writes a content twice, out of order, or not at all.
        """
        filled = [n for n, message in enumerate(chat.messages) if message["content"]]
        words = {n: _WORD.format(n) for n in filled}
        messages = [{**m, "content": words.get(n, m["content"])} for n, m in enumerate(chat.messages)]
        rest = self.write(Chat(messages, chat.where))
        between = []
        for word in words.values():
            before, found, rest = rest.partition(word)
            if not found or word in rest:
                raise self._unclear(chat)
            between.append(before)
        between.append(rest)
        if not written.startswith(between[0]):
            raise self._unclear(chat)
        spans, at = [], len(between[0])
        for n, after in zip(filled, between[1:], strict=True):
            last = n == filled[-1]
            end = self._end(written, at, chat.messages[n]["content"], after, last)
            if end is None:
                raise self._unclear(chat)
            spans.append(Span(at, end, chat.messages[n]["role"]))
            at = end + len(after)
        return spans

    @staticmethod
    def _end(written: str, at: int, content: str, after: str, last: bool) -> int | None:
        """Where a content that begins at `at` ends: as it is, or stripped, or as the template changed it."""
        for kept in (content, content.rstrip(), content.lstrip(), content.strip()):
            end = at + len(kept)
            whole = kept + after
            if written.startswith(whole, at) and (not last or at + len(whole) == len(written)):
                return end
        if last:
            return len(written) - len(after) if written.endswith(after) and len(written) - len(after) >= at else None
        found = written.find(after, at) if after else -1
        return found if found >= 0 else None

    @staticmethod
    def _unclear(chat: Chat) -> UserError:
        return UserError(
            f"{chat.where}: the chat template does not write each content once and in order, so that it cannot be told "
            "whose tokens are whose; leave out corpus.roles and corpus.template_tokens, or give another corpus.template"
        )
