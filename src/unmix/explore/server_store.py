"""More examples of a feature than the site's files hold: every activation is in the store."""

from __future__ import annotations

from pathlib import Path

from unmix.explore import examples
from unmix.explore.server_api import Answer, FeatureRequest
from unmix.explore.store import Store, Text, open_store
from unmix.explore.windows import windows, with_ids


class Windows:
    """Pages of examples; the store is opened with the first of them, and one hook's tokens are kept in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._store: Store | None = None
        self._kept: tuple[str, Text] | None = None

    def __call__(self, member: str, request: FeatureRequest) -> Answer:
        """Windows as in the site's files, from `offset` on, and how many there are in all.

        `top`: the peak of every sequence, the largest first. `uniform`: every firing, in an order in which each is as
        likely to come first as any other. Masked tokens are no peaks. Raises `UserError` if there is no store.
        """
        if self._store is None:
            self._store = open_store(self.folder)
        store, feature = self._store, request.feature
        text = self._text(store, str(store.members[member]["hook"]))
        token_n, act_n = store.entries(member, feature, feature + 1).of(feature)
        if request.order == "top":
            peak_w = examples.top(token_n, act_n, text)
        else:
            peak_w = examples.uniform(feature, token_n, text)
        page_w = peak_w[request.offset : request.offset + request.limit]
        shown = with_ids(windows(page_w, token_n, act_n, text), text)
        return {"windows": shown, "offset": request.offset, "total": len(peak_w)}

    def _text(self, store: Store, hook: str) -> Text:
        if self._kept is None or self._kept[0] != hook:
            self._kept = (hook, store.text(hook))
        return self._kept[1]
