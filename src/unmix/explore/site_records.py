"""Records of features out of a built site, with the text of their examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unmix.errors import UserError
from unmix.explore.server_files import read_page
from unmix.explore.texts import Record, SiteText


class Records:
    """Those of a member, a file at a time. Raises `UserError` where files are missing or damaged."""

    def __init__(self, site: Path, manifest: dict[str, Any], member: str) -> None:
        self.site, self.member = site, member
        [facts] = [row for row in manifest["members"] if row["name"] == member]
        self._each = int(facts["shards"]["features"])
        self._text = SiteText(site, int(manifest["tokens"]["context"]))
        self._number = -1
        self._page: list[Record] = []

    def __call__(self, feature: int) -> Record:
        """The record of one feature, `ids` in each of its windows."""
        number = feature // self._each
        if number != self._number:
            self._number, self._page = number, read_page(self.site, f"{self.member}/f/{number:05d}")
        try:
            return self._text.fill(self._page[feature % self._each])
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.site / 'text'} is damaged ({error}); build the site again with `unmix explore RUN --build`"
            ) from None
