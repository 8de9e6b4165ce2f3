"""What the report shows of an evaluation whose ratios mean nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from unmix.report.html import write_report


def test_a_loss_recovered_that_is_not_given_is_no_number_in_the_report(make: Any, held: Any) -> None:
    run: Path = make()
    result = held.result("resid_post.3", ["l1-2", "l1-5"])
    result["saes"]["l1-2"]["loss_recovered_zero"] = None
    held.write(run, result)
    write_report(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert re.search(r"<td>0\.970, (nan|–)</td>", page)
    assert "<td>0.970, 0.980</td>" in page


def test_error_bars_say_what_they_are_clustered_by(make: Any, held: Any) -> None:
    run: Path = make()
    result = held.result("resid_post.3", ["l1-2"])
    for key, said in ((None, "by sequence"), ("ce_documents", "by document")):
        (run / "evaluation.json").write_text(json.dumps({"hooks": [result | ({key: 12} if key else {})]}))
        write_report(run)
        assert f"two standard errors, {said}" in (run / "report.html").read_text(encoding="utf-8")
